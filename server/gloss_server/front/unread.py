"""Calls that end before their request has come: refused by gRPC itself, which tells no handler of a
message or of metadata over their bounds, or given up while the request was on its way.

All that can be known of them is that a call to this method began and never got to its handler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from gloss_server.front.call_log import CallLog
from gloss_server.front.labels import OTHER, method_name
from gloss_server.front.telemetry import Telemetry

if TYPE_CHECKING:
    # Generic for the type checker only.
    Handler = grpc.RpcMethodHandler[Any, Any]


class _Arrival:
    """A call that began."""

    is_read = False


# grpc.aio runs a call's interceptors and its handler in one task.
_arrival: ContextVar[_Arrival | None] = ContextVar("arrival", default=None)


def request_came() -> None:
    """The request of this task's call is there."""
    arrival = _arrival.get()
    if arrival is not None:
        arrival.is_read = True


class Unread(grpc.aio.ServerInterceptor):
    """Notices them; it stands behind the interceptors that end calls themselves.

    Args:
        telemetry, log: hear of them.
    """

    def __init__(self, telemetry: Telemetry, log: CallLog) -> None:
        self._telemetry, self._log = telemetry, log

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        method, task = method_name(handler_call_details.method), asyncio.current_task()
        if method != OTHER and task is not None:
            arrival = _Arrival()
            _arrival.set(arrival)
            task.add_done_callback(partial(self._ended, arrival, method, time.monotonic()))
        return await continuation(handler_call_details)

    def _ended(self, arrival: _Arrival, method: str, began: float, _: asyncio.Task[Any]) -> None:
        if not arrival.is_read:
            self._telemetry.unread(method)
            self._log.lifecycle("unread_call", method=method, seconds=time.monotonic() - began)
