"""Health as gRPC defines it, `List` included, which the library leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2 as _health_pb2

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

health_pb2: Any = _health_pb2
"""Whose stubs lack `List`'s messages."""


class Health(health.aio.HealthServicer):
    """The state of every name that was set."""

    def __init__(self) -> None:
        super().__init__()
        self._names = {""}

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
