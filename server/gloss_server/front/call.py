"""One RPC while it runs: who calls, until when, what it reads, what is told of it at its end."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallRecord
from gloss_server.front.caller_name import name_of
from gloss_server.front.gate import Caller
from gloss_server.front.run import Run

if TYPE_CHECKING:
    # Not there without OpenTelemetry.
    from gloss_server.tracing.call_spans import CallSpan

    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

_LARGE_BYTES = 1 << 20
"""From here on a request is hashed beside the event loop; 32 MiB take some 35 ms."""
_DEADLINE_SLACK_SECONDS, _DEADLINE_SLACK = 0.005, 0.1
_CLOSE_SECONDS = 5.0
"""Until grpc says that a client has left on whose stream a write failed, at most; it takes 0.2 ms
where the event loop is free."""


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
        span: of its trace; None: it is not traced.
        reply_bytes: of the messages that answered it.
    """

    def __init__(self, method: str, context: Context, content: bytes, max_seconds: float) -> None:
        self.method, self._context, self._content = method, context, content
        self.arrived = time.monotonic()
        remaining = context.time_remaining()
        self.has_deadline = remaining is not None
        # None at all would keep for ever what a caller forgot.
        self.deadline = self.arrived + (max_seconds if remaining is None else remaining)
        self.peer = context.peer()
        self.client, self._is_proved = name_of(context)
        self.request_id = ""
        self.runs: list[Run] = []
        self.span: CallSpan | None = None
        self.reply_bytes = 0

    def name(self, request_id: str) -> None:
        """Take over the caller's request_id, or make one."""
        self.request_id = request_id or uuid.uuid4().hex

    async def caller(self, request_id: str) -> Caller:
        """Who calls, and under which name. What was large to send takes its time: nothing that was
        seen of the server before still holds."""
        return Caller(
            request_id=request_id,
            digest=await self._digest() if request_id else b"",
            client=self.client,
            owner=self.client if self._is_proved else "",
            arrived=self.arrived,
            deadline=self.deadline,
            trace=None if self.span is None else self.span.context,
        )

    async def _digest(self) -> bytes:
        """Of everything that was sent, and to which method."""
        digest = hashlib.sha256(self.method.encode() + b"\0")
        if len(self._content) >= _LARGE_BYTES:
            # Elsewhere: tens of milliseconds, in which all other calls would stand still.
            await asyncio.to_thread(digest.update, self._content)
        else:
            digest.update(self._content)
        return digest.digest()

    def encode(self, reply: Message) -> bytes:
        """A reply as it travels."""
        content = reply.SerializeToString()
        self.reply_bytes += len(content)
        return content

    async def write(self, message: Message) -> None:
        """Send a message of a stream; waits while the client does not read.

        Raises:
            asyncio.CancelledError: the client has left.
        """
        try:
            await self._context.write(self.encode(message))
        except grpc.aio.InternalError:
            # A write under way fails when the client leaves, just before grpc cancels the handler.
            await asyncio.sleep(_CLOSE_SECONDS)
            # Nobody has left.
            raise

    @property
    def has_started(self) -> bool:
        """Whether any of its activations has begun to run."""
        return _earliest(run.started_at for run in self.runs) is not None

    def given_up(self) -> CallError:
        """Why grpc cancelled its handler: its client did, or its deadline has passed."""
        # The client's clock began while the request was on its way, so it ends a little earlier.
        slack = max(_DEADLINE_SLACK_SECONDS, _DEADLINE_SLACK * (self.deadline - self.arrived))
        if self.has_deadline and time.monotonic() >= self.deadline - slack:
            return self.too_late()
        return CallError("CANCELLED", "the client gave the call up")

    def too_late(self) -> CallError:
        """Its deadline has passed."""
        whose = "its" if self.has_deadline else "the server's default"
        seconds = self.deadline - self.arrived
        return CallError(
            "DEADLINE_EXCEEDED",
            f"the call was not finished within {whose} deadline of {seconds:.3g} s",
        )

    def end(self, code: str, reason: str | None, seconds: float) -> CallRecord:
        """End its span, if it has one; what is logged of it."""
        runs = self.runs
        started = _earliest(run.started_at for run in runs)
        first = _earliest(run.first_token_at for run in runs)
        # A run that was joined began before this call.
        arrived = min((run.arrived for run in runs), default=self.arrived)
        record = CallRecord(
            method=self.method,
            request_id=self.request_id,
            peer=self.peer,
            client=self.client,
            # Texts for the AR and readings have none.
            priority=next((run.priority for run in runs if run.num_samples), None),
            code=code,
            reason=reason,
            seconds=seconds,
            queue_seconds=None if started is None else started - arrived,
            first_token_seconds=None if first is None else first - arrived,
            num_items=sum(run.num_items for run in runs),
            num_tokens=sum(run.num_tokens_come for run in runs),
            num_text_tokens=sum(run.num_text_tokens for run in runs),
            num_target_tokens=sum(run.num_target_tokens for run in runs),
            request_bytes=len(self._content),
            reply_bytes=self.reply_bytes,
            trace_id=None if self.span is None else self.span.trace_id,
            explanations=[e.explanation for run in runs for e in run.explanations],
        )
        if self.span is not None:
            traces = [run.trace for run in runs if run.trace is not None]
            joined = [trace for trace in traces if trace is not self.span.context]
            self.span.end(self.arrived + seconds, joined, record)
        return record


def _earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
