"""A Gloss service without a model: the contract's messages, made up from what came in.

What it answers (`echo_replies.py`, `echo_texts.py`) depends only on rows, texts, keys, seed and
sample, so that a batch in pieces can be compared with the same batch in one call. It records what
it gets and fails when it is told to.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import grpc
import numpy as np
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.echo_replies import (
    NUM_TOKENS,
    decoded,
    delta,
    encoded,
    explained,
    item_status,
    stream_end,
    text_row,
)
from support.echo_texts import capture_messages, explain_messages, watch_messages


class Status(NamedTuple):
    """What grpc's abort_with_status takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How a call fails.

    Attributes:
        code, reason, message, field, retry_after: of its status; no reason: a status as gRPC
            itself gives it, without details.
        pushback_ms: `grpc-retry-pushback-ms`; None: none.
        after: stream messages before it; 0: at once.
    """

    code: grpc.StatusCode
    reason: str = ""
    message: str = "told to fail"
    field: str | None = None
    retry_after: float | None = None
    pushback_ms: int | None = None
    after: int = 0

    def status(self) -> Status:
        """The status with its details."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.reason:
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=self.reason))
        if self.field is not None:
            bad_request = error_details_pb2.BadRequest()
            bad_request.field_violations.add(field=self.field)
            status.details.add().Pack(bad_request)
        if self.retry_after is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(self.retry_after * 1000))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        metadata: list[tuple[str, str | bytes]] = []
        if self.reason:
            metadata.extend(rpc_status.to_status(status).trailing_metadata)
        if self.pushback_ms is not None:
            metadata.append(("grpc-retry-pushback-ms", str(self.pushback_ms)))
        return Status(self.code, self.message, tuple(metadata))


@dataclass
class Received:
    """A call that came in."""

    method: str
    request: Any
    metadata: dict[str, Any]
    time: float
    time_remaining: float


@dataclass
class EchoService(gloss_pb2_grpc.GlossServiceServicer):
    """The servicer.

    Attributes:
        d_model: width of an activation.
        limits: what GetModelInfo says and calls are held to.
        fingerprint: of the checkpoints it pretends to have.
        has_target, target_generates: whether a target is among them, and whether it is whole.
        faults: of the next calls to any method but GetModelInfo, in order; None: it succeeds, as
            do all after the last.
        step_seconds: what a stream's message, or a unary call, takes.
        received: calls that came in.
        stopping: set when the server ends, so that no call outlasts its test.
        cancelled: set when a call was cancelled by its client.
        most_in_flight: most calls at once so far.
    """

    d_model: int = 8
    limits: pb.Limits = field(
        default_factory=lambda: pb.Limits(
            max_items=1024,
            max_samples=64,
            max_new_tokens=200,
            max_request_bytes=32 << 20,
            max_reply_bytes=3 << 20,
            max_queued_explanations=4096,
            max_queued_tokens=4096 * 200,
            default_deadline_seconds=120,
            max_text_tokens=4096,
            max_watch_tokens=1024,
            watch_max_pending=64,
            watch_deadline_seconds=600,
        )
    )
    fingerprint: str = "echo-0"
    has_target: bool = True
    target_generates: bool = True
    faults: deque[Fault | None] = field(default_factory=deque)
    step_seconds: float = 0.0
    received: list[Received] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    most_in_flight: int = 0
    _in_flight: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def Verbalize(self, request: Any, context: Any) -> Any:
        self._arrive("Verbalize", request, context)
        ended = self._watch_for_cancellation(context)
        try:
            self.stopping.wait(self.step_seconds)
            return self.verbalized(request, context)
        finally:
            ended.set()
            self._leave()

    def StreamVerbalize(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("StreamVerbalize", request.request, context)

    def Explain(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("Explain", request, context)

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("Watch", request, context)

    def Capture(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("Capture", request, context)

    def Reconstruct(self, request: Any, context: Any) -> Any:
        self._arrive("Reconstruct", request, context)
        self._check_size("texts", len(request.texts), 0, context)
        rows = np.stack([text_row(text, self.d_model) for text in request.texts])
        reply = pb.ReconstructResponse(fingerprint=self.fingerprint)
        for index, text in enumerate(request.texts):
            if text == "fail":
                rows[index] = 0
                reply.failures.add(item_index=index, error=item_status("TEXT_TOO_LONG"))
        reply.activations.CopyFrom(encoded(rows, request.dtype))
        self._leave()
        return reply

    def Score(self, request: Any, context: Any) -> Any:
        self._arrive("Score", request, context)
        self._check_size("texts", len(request.texts), 0, context)
        reply = pb.ScoreResponse(fingerprint=self.fingerprint)
        for text, row in zip(request.texts, decoded(request.activations), strict=True):
            if row.any():
                reply.results.add(cosine=float(row.sum()), mse=float(len(text)))
            else:
                reply.results.add(error=item_status("ZERO_VECTOR"))
        self._leave()
        return reply

    def GetModelInfo(self, request: Any, context: Any) -> Any:
        self._arrive("GetModelInfo", request, context, may_fail=False)
        self._leave()
        target = pb.Checkpoint(architecture="qwen2", d_model=self.d_model, num_layers=4)
        return pb.GetModelInfoResponse(
            model="echo",
            version="0.1.0",
            fingerprint=self.fingerprint,
            av=pb.Checkpoint(architecture="qwen2", d_model=self.d_model, num_layers=3),
            layer_index=2,
            d_model=self.d_model,
            fve_baseline=0.5,
            fve_baseline_source=pb.BASELINE_SOURCE_SETTING,
            limits=self.limits,
            target=target if self.has_target else None,
            target_generates=self.target_generates,
        )

    def GetStats(self, request: Any, context: Any) -> Any:
        self._arrive("GetStats", request, context)
        self._leave()
        return pb.GetStatsResponse(
            state=pb.SERVING_STATE_SERVING,
            latencies=[pb.LatencyQuantiles(name="queue", count=4, p50=0.25)],
            rejections=[pb.NamedCount(name="QUEUE_FULL", count=2)],
            reading=3,
            watching=1,
            target_tokens_read=40,
            target_tokens_generated=30,
            captured=20,
            skipped=[pb.NamedCount(name="max_pending", count=7)],
        )

    def methods(self) -> list[str]:
        """Names of the calls that came in, in order."""
        return [call.method for call in self.received]

    def verbalized(self, request: Any, context: Any) -> Any:
        """The reply to a batch, held to the limits."""
        options = request.options
        num_samples = max(1, options.num_samples)
        self._check_size("activations", request.activations.shape[0], num_samples, context)
        explanations = list(explained(request))
        return pb.VerbalizeResponse(
            request_id=request.request_id,
            fingerprint=self.fingerprint,
            seed=options.seed,
            explanations=explanations,
            usage=pb.Usage(generated_tokens=NUM_TOKENS * len(explanations)),
            timings=pb.Timings(queue_seconds=0.25, first_token_seconds=0.5, total_seconds=1),
        )

    def _stream(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        """Message after message, up to the one that a fault takes the place of."""
        fault = self._arrive(method, request, context)
        ended = self._watch_for_cancellation(context)
        try:
            for number, message in enumerate(self._messages(method, request, context)):
                if fault is not None and number == fault.after:
                    context.abort_with_status(fault.status())
                yield message
                self.stopping.wait(self.step_seconds)
            ended.set()
        finally:
            self._leave()

    def _messages(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        """A stream that succeeds, held to the limits."""
        if method == "StreamVerbalize":
            self._check_size("activations", request.activations.shape[0], 0, context)
            return self._verbalize_messages(request)
        if method == "Capture":
            self._check_size("inputs", len(request.inputs), 0, context)
            return capture_messages(request, self.d_model, self.fingerprint)
        messages = explain_messages if method == "Explain" else watch_messages
        return messages(request, self.d_model, self.fingerprint)

    def _verbalize_messages(self, request: Any) -> Iterator[Any]:
        """Start, one token of every explanation a message, what is done, end."""
        start = pb.StreamStart(
            request_id=request.request_id,
            fingerprint=self.fingerprint,
            seed=request.options.seed,
        )
        yield pb.StreamVerbalizeResponse(start=start)
        explanations = list(explained(request))
        for token in range(NUM_TOKENS):
            yield pb.StreamVerbalizeResponse(
                deltas=[delta(done, token) for done in explanations if not done.HasField("error")]
            )
        yield pb.StreamVerbalizeResponse(explanations=explanations)
        yield pb.StreamVerbalizeResponse(end=stream_end(len(explanations)))

    def _arrive(
        self, method: str, request: Any, context: Any, may_fail: bool = True
    ) -> Fault | None:
        """Records the call, and fails it at once where its fault says so."""
        metadata = dict(context.invocation_metadata())
        call = Received(method, request, metadata, time.monotonic(), context.time_remaining())
        with self._lock:
            self.received.append(call)
            fault = self.faults.popleft() if may_fail and self.faults else None
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        if fault is not None and fault.after == 0:
            self._leave()
            context.abort_with_status(fault.status())
        return fault

    def _watch_for_cancellation(self, context: Any) -> threading.Event:
        """Sets `cancelled` if the call is over before the event that is returned is set."""
        ended = threading.Event()
        context.add_callback(lambda: None if ended.is_set() else self.cancelled.set())
        return ended

    def _leave(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _check_size(self, name: str, items: int, num_samples: int, context: Any) -> None:
        """Refuses what is over the limits, by a guess of the reply's size that is its own."""
        if items > self.limits.max_items:
            self._refuse(context, "BATCH_TOO_LARGE", f"{name}.shape", items)
        if items * num_samples * 100 > self.limits.max_reply_bytes:
            self._refuse(context, "REPLY_TOO_LARGE", "options.num_samples", items)

    def _refuse(self, context: Any, reason: str, name: str, items: int) -> NoReturn:
        fault = Fault(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason=reason,
            message=f"{name}: got {items} items",
            field=name,
        )
        context.abort_with_status(fault.status())
        raise AssertionError("aborted")
