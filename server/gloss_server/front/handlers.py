"""The frame around every RPC: bytes to a message, deadline, errors to statuses, log and metrics.

The service's methods (`service.py`) are given a parsed message and a `Call`, return or write
messages, and raise CallError. grpc.aio by itself would answer bytes that are no protobuf with
UNKNOWN, and an exception with its text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call import Call
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.request_parser import RequestParser
from gloss_server.front.room import Room
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.unread import request_came

if TYPE_CHECKING:
    # Not there without OpenTelemetry.
    from gloss_server.tracing.call_spans import CallSpans

    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"]
_NO_METHOD = f"no such method here; those of {_SERVICE.full_name} are " + ", ".join(
    method.name for method in _SERVICE.methods
)
_SMALL_BYTES = 4096
"""A request up to this size is not counted: who asks how a full server does is told."""
_BYTES_RETRY_SECONDS = 0.5
_ABORT_SECONDS = 5.0
"""Until a status is sent, at most."""
Method = Callable[[Any, Call], Awaitable[Message | None]]


class Handlers:
    """Makes the handlers of a service.

    Args:
        telemetry, log: hear of every call.
        max_seconds: deadline of a call that states none.
        max_seconds_of: the same for methods that have their own.
        requests: room of their bytes, which are held until a call ends.
        spans: makes those of calls; None: nothing is traced.

    Attributes:
        num_calls: calls in flight.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        log: CallLog,
        max_seconds: float,
        max_seconds_of: Mapping[str, float],
        requests: Room,
        spans: CallSpans | None = None,
    ) -> None:
        self._telemetry, self._log, self._spans = telemetry, log, spans
        self._max_seconds, self._max_seconds_of = max_seconds, dict(max_seconds_of)
        self._requests = requests
        self.num_calls = 0

    def generic(self, methods: dict[str, Method]) -> grpc.GenericRpcHandler:
        """The handler of the methods by name."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, method in methods.items():
            descriptor = _SERVICE.methods_by_name[name]
            parser = RequestParser(_message_class(descriptor.input_type.name))
            behaviour = self._behaviour(name, method, parser)
            make = (
                grpc.unary_stream_rpc_method_handler
                if descriptor.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            # Bytes both ways: they are parsed where errors can be answered, and counted.
            handlers[name] = make(behaviour)
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def unknown(self) -> grpc.GenericRpcHandler:
        """The handler of all methods that no other handler knows: it refuses them."""
        return _Unknown(self.refuse)

    async def refuse(self, method: str, context: Context, failure: CallError) -> None:
        """End a call that is not even read; log and metrics hear of it as of any other."""
        call = Call(method, context, b"", self._max_seconds)
        self._telemetry.call_started(method)
        self.num_calls += 1
        self._note(call, failure)
        await context.abort(failure.code, str(failure), failure.trailing_metadata())

    def _behaviour(self, name: str, method: Method, parser: RequestParser) -> Callable[..., Any]:
        max_seconds = self._max_seconds_of.get(name, self._max_seconds)

        async def behaviour(content: bytes, context: Context) -> bytes | None:
            request_came()
            call = Call(name, context, content, max_seconds)
            if self._spans is not None:
                metadata = context.invocation_metadata() or ()
                call.span = self._spans.start(name, metadata, call.arrived)
            self._telemetry.call_started(name)
            self.num_calls += 1
            failure: CallError | None = None
            try:
                try:
                    with self._holding(content):
                        reply = await _answer(call, method, parser, content)
                    return None if reply is None else call.encode(reply)
                except CallError as error:
                    failure = error
                except asyncio.CancelledError:
                    failure = call.given_up()
                    raise
                except Exception as error:
                    self._log.lifecycle(
                        "defect", method=name, traceback="".join(format_exception(error))
                    )
                    failure = CallError("INTERNAL", "an error inside the server; it was logged")
            finally:
                self._note(call, failure)
            # It waits behind what a client has not read; a status under way needs nobody who waits.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_SECONDS):
                    await context.abort(failure.code, str(failure), failure.trailing_metadata())
            return None

        return behaviour

    @contextmanager
    def _holding(self, content: bytes) -> Iterator[None]:
        """Hold a request's bytes while the body runs.

        Raises:
            CallError: QUEUE_FULL or BATCH_TOO_LARGE: there is no room for them, now or ever.
        """
        if len(content) <= _SMALL_BYTES:
            yield
            return
        self._requests.check(len(content), field="request", retry_after=_BYTES_RETRY_SECONDS)
        lease = self._requests.take(len(content))
        try:
            yield
        finally:
            lease.close()

    def _note(self, call: Call, failure: CallError | None) -> None:
        """Tell metrics and log how a call ended."""
        self.num_calls -= 1
        seconds = time.monotonic() - call.arrived
        code = "OK" if failure is None else failure.code.name
        reason = None if failure is None else failure.reason
        telemetry = self._telemetry
        telemetry.call_ended(call.method, code, reason, seconds)
        phase = "running" if call.has_started else "queued"
        if reason == "DEADLINE_EXCEEDED":
            telemetry.expired(phase)
        elif reason == "CANCELLED":
            telemetry.cancelled(phase)
        elif failure is not None and code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
            telemetry.rejected(failure.reason, None if call.runs else seconds)
        self._log.call(call.end(code, reason, seconds))


class _Unknown(grpc.GenericRpcHandler):
    """Ends calls to methods that are not there; one that streams requests is not waited for."""

    def __init__(self, refuse: Callable[[str, Context, CallError], Awaitable[None]]) -> None:
        self._refuse = refuse

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.GenericRpcHandler."""
        path = handler_call_details.method

        async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._refuse(path, context, CallError("UNKNOWN_METHOD", _NO_METHOD))

        return grpc.stream_stream_rpc_method_handler(refuse)


async def _answer(
    call: Call, method: Method, parser: RequestParser, content: bytes
) -> Message | None:
    request = parser.parse(content)
    try:
        async with asyncio.timeout_at(
            asyncio.get_running_loop().time() + call.deadline - time.monotonic()
        ):
            return await method(request, call)
    except TimeoutError as error:
        raise call.too_late() from error


def _message_class(name: str) -> Any:
    return getattr(pb, name)
