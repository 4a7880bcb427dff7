"""The frame around every RPC: bytes to a message, deadline, errors to statuses, log and metrics.

The service's methods (`service.py`) are given a parsed message and a `Call`, return or write
messages, and raise CallError. grpc.aio by itself would answer bytes that are no protobuf with
UNKNOWN, and an exception with its text.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog, CallRecord
from gloss_server.front.caller_name import name_of
from gloss_server.front.gate import Caller
from gloss_server.front.request_parser import RequestParser
from gloss_server.front.room import Room
from gloss_server.front.run import Run
from gloss_server.front.telemetry import Telemetry

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

_SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"]
_DEADLINE_SLACK_SECONDS, _DEADLINE_SLACK = 0.005, 0.1
_CLOSE_SECONDS = 5.0
"""Until grpc says that a client has left on whose stream a write failed, at most; it takes 0.2 ms
where the event loop is free. The same until a status is sent."""
_SMALL_BYTES = 4096
"""A request up to this size is not counted: who asks how a full server does is told."""
_BYTES_RETRY_SECONDS = 0.5
Method = Callable[[Any, "Call"], Awaitable[Message | None]]


class Call:
    """One RPC while it runs.

    Args:
        method: its name.
        context: grpc.aio's.
        content: the request's bytes.
        max_seconds: deadline where the client states none.

    Attributes:
        arrived: monotonic seconds.
        deadline: the client's, or the server's cap, monotonic seconds.
        has_deadline: whether the client stated one.
        peer: where it comes from; client: whose it is.
        request_id: the caller's, or one of ours.
        runs: what it reads, once there is any; for log and metrics.
    """

    def __init__(self, method: str, context: Context, content: bytes, max_seconds: float) -> None:
        self.method, self._context, self._content = method, context, content
        self.arrived = time.monotonic()
        remaining = context.time_remaining()
        self.has_deadline = remaining is not None
        # A deadline of days is none: it must not keep what a caller forgot.
        self.deadline = self.arrived + (max_seconds if remaining is None else remaining)
        self.peer = context.peer()
        self.client, self._is_proved = name_of(context)
        self.request_id = ""
        self.runs: list[Run] = []

    def name(self, request_id: str) -> None:
        """Take over the caller's request_id, or make one."""
        self.request_id = request_id or uuid.uuid4().hex

    def caller(self, request_id: str) -> Caller:
        """Who calls, and under which name."""
        digest = b""
        if request_id:
            # Of everything that was sent, and to which method.
            digest = hashlib.sha256(self.method.encode() + b"\0" + self._content).digest()
        return Caller(
            request_id=request_id,
            digest=digest,
            client=self.client,
            owner=self.client if self._is_proved else "",
            arrived=self.arrived,
            deadline=self.deadline,
        )

    async def write(self, message: Message) -> None:
        """Send a message of a stream; waits while the client does not read.

        Raises:
            asyncio.CancelledError: the client has left.
        """
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            # A write under way fails when the client leaves, just before grpc cancels the handler.
            await asyncio.sleep(_CLOSE_SECONDS)
            # Nobody has left.
            raise


class Handlers:
    """Makes the handlers of a service.

    Args:
        telemetry, log: hear of every call.
        max_seconds: deadline of a call that states none.
        max_seconds_of: the same for methods that have their own.
        requests: room of their bytes, which are held until a call ends.

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
    ) -> None:
        self._telemetry, self._log = telemetry, log
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
            serializer = _message_class(descriptor.output_type.name).SerializeToString
            # No deserializer: the bytes themselves, to parse them where errors can be answered.
            handlers[name] = make(behaviour, response_serializer=serializer)
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    async def refuse(self, method: str, context: Context, failure: CallError) -> None:
        """End a call that is not even read; log and metrics hear of it as of any other."""
        call = Call(method, context, b"", self._max_seconds)
        self._telemetry.call_started(method)
        self.num_calls += 1
        self._note(call, failure)
        await context.abort(failure.code, str(failure), failure.trailing_metadata())

    def _behaviour(self, name: str, method: Method, parser: RequestParser) -> Callable[..., Any]:
        max_seconds = self._max_seconds_of.get(name, self._max_seconds)

        async def behaviour(content: bytes, context: Context) -> Message | None:
            call = Call(name, context, content, max_seconds)
            self._telemetry.call_started(name)
            self.num_calls += 1
            failure: CallError | None = None
            try:
                try:
                    with self._holding(content):
                        return await _answer(call, method, parser, content)
                except CallError as error:
                    failure = error
                except asyncio.CancelledError:
                    failure = _given_up(call)
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
                async with asyncio.timeout(_CLOSE_SECONDS):
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
        phase = "queued" if _earliest(run.started_at for run in call.runs) is None else "running"
        if reason == "DEADLINE_EXCEEDED":
            telemetry.expired(phase)
        elif reason == "CANCELLED":
            telemetry.cancelled(phase)
        elif failure is not None and code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
            telemetry.rejected(failure.reason, None if call.runs else seconds)
        self._log.call(_record(call, code, reason, seconds))


def _record(call: Call, code: str, reason: str | None, seconds: float) -> CallRecord:
    runs = call.runs
    started = _earliest(run.started_at for run in runs)
    first = _earliest(run.first_token_at for run in runs)
    # A run that was joined began before this call.
    arrived = min((run.arrived for run in runs), default=call.arrived)
    return CallRecord(
        method=call.method,
        request_id=call.request_id,
        peer=call.peer,
        client=call.client,
        code=code,
        reason=reason,
        seconds=seconds,
        queue_seconds=None if started is None else started - arrived,
        first_token_seconds=None if first is None else first - arrived,
        num_items=sum(run.num_items for run in runs),
        num_tokens=sum(run.num_tokens for run in runs),
        num_text_tokens=sum(run.num_text_tokens for run in runs),
        num_target_tokens=sum(run.num_target_tokens for run in runs),
        explanations=[e.explanation for run in runs for e in run.explanations],
    )


def _earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)


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
        raise _too_late(call) from error


def _given_up(call: Call) -> CallError:
    """Why grpc cancelled a handler: its client did, or its deadline has passed."""
    # The client's clock began while the request was on its way, so it ends a little earlier.
    slack = max(_DEADLINE_SLACK_SECONDS, _DEADLINE_SLACK * (call.deadline - call.arrived))
    if call.has_deadline and time.monotonic() >= call.deadline - slack:
        return _too_late(call)
    return CallError("CANCELLED", "the client gave the call up")


def _too_late(call: Call) -> CallError:
    whose = "its" if call.has_deadline else "the server's default"
    seconds = call.deadline - call.arrived
    return CallError(
        "DEADLINE_EXCEEDED", f"the call was not finished within {whose} deadline of {seconds:.3g} s"
    )


def _message_class(name: str) -> Any:
    return getattr(pb, name)
