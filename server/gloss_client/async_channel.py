"""A connection for the tasks of one event loop, opened when the first call needs it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from gloss_api.v1 import gloss_pb2_grpc
from gloss_client.channel import open_async_channel
from gloss_client.connection import Connection

CLOSED = AioRpcError(
    grpc.StatusCode.CANCELLED,
    Metadata(),
    Metadata(),
    "the client was closed while the call was under way",
)
"""How a call ends whose channel is closed, as for threads; grpc.aio says it another way."""


def is_cancelled() -> bool:
    """Whether the task that runs is being cancelled itself: grpc.aio raises the same in a task that
    waits for a call which our side has ended."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class AsyncChannel:
    """A channel that belongs to the loop of its first call.

    Args:
        connection: how to connect.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def stub(self) -> Any:
        """The service on this loop's connection.

        Raises:
            Cancelled: the client is closed.
            RuntimeError: the connection belongs to another loop, where gRPC would wait for ever.
        """
        self._connection.check_open()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = open_async_channel(self._connection)
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this client was first used on another event loop; make one for each loop"
            )
        return gloss_pb2_grpc.GlossServiceStub(self._channel)

    async def close(self) -> None:
        """End the connection; calls under way are cancelled, and none begins after it."""
        self._connection.closed.set()
        if self._channel is not None:
            await self._channel.close()
