"""Health as gRPC defines it: with `List`, which the library leaves out, and an end of `Watch`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2 as _health_pb2

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

health_pb2: Any = _health_pb2
"""Whose stubs lack `List`'s messages."""


_LAST_WORD_SECONDS = 0.2


class Health(health.aio.HealthServicer):
    """The state of every name that was set."""

    def __init__(self) -> None:
        super().__init__()
        self._names = {""}
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End whoever watches: a server that stops waits for all that is under way."""
        self._closing.set()

    async def Watch(self, request: Any, context: Context) -> None:
        """See health.aio.HealthServicer, whose own never ends."""
        watching = asyncio.create_task(super().Watch(request, context))
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((watching, closing), return_when=asyncio.FIRST_COMPLETED)
            # The state that was set last may be on its way.
            await asyncio.wait((watching,), timeout=_LAST_WORD_SECONDS)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            closing.cancel()

    async def set(self, service: str, status: int) -> None:
        """See health.aio.HealthServicer."""
        self._names.add(service)
        await super().set(service, status)

    async def List(self, request: object, context: Context) -> object:
        """All names with their states."""
        statuses = {}
        for name in sorted(self._names):
            statuses[name] = await self.Check(health_pb2.HealthCheckRequest(service=name), context)
        return health_pb2.HealthListResponse(statuses=statuses)
