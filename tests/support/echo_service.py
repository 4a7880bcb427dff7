"""A Gloss service without a model: the contract's messages, made up from what came in.

What it answers depends only on rows, keys, seed and sample, so that a batch in pieces can be
compared with the same batch in one call. It records what it gets and fails when it is told to.
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

NUM_TOKENS = 3
DTYPES = {
    pb.TENSOR_DTYPE_FLOAT32: np.dtype("<f4"),
    pb.TENSOR_DTYPE_BFLOAT16: np.dtype("<u2"),
    pb.TENSOR_DTYPE_FLOAT16: np.dtype("<f2"),
}


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
        )
    )
    fingerprint: str = "echo-0"
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
        request = request.request
        fault = self._arrive("StreamVerbalize", request, context)
        ended = self._watch_for_cancellation(context)
        try:
            for number, message in enumerate(self._messages(request, context)):
                if fault is not None and number == fault.after:
                    context.abort_with_status(fault.status())
                yield message
                self.stopping.wait(self.step_seconds)
            ended.set()
        finally:
            self._leave()

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
        )

    def GetStats(self, request: Any, context: Any) -> Any:
        self._arrive("GetStats", request, context)
        self._leave()
        return pb.GetStatsResponse(
            state=pb.SERVING_STATE_SERVING,
            latencies=[pb.LatencyQuantiles(name="queue", count=4, p50=0.25)],
            rejections=[pb.NamedCount(name="QUEUE_FULL", count=2)],
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

    def _messages(self, request: Any, context: Any) -> Iterator[Any]:
        """A stream: start, one token of every explanation a message, what is done, end."""
        rows = request.activations.shape[0]
        self._check_size("activations", rows, 0, context)
        start = pb.StreamStart(
            request_id=request.request_id,
            fingerprint=self.fingerprint,
            seed=request.options.seed,
        )
        yield pb.StreamVerbalizeResponse(start=start)
        explanations = list(explained(request))
        for token in range(NUM_TOKENS):
            yield pb.StreamVerbalizeResponse(
                deltas=[
                    pb.TextDelta(
                        item_index=done.item_index,
                        sample_index=done.sample_index,
                        token_ids=[done.token_ids[token]],
                        text=done.raw_text.split(" ")[token],
                    )
                    for done in explanations
                    if not done.HasField("error")
                ]
            )
        yield pb.StreamVerbalizeResponse(explanations=explanations)
        counts = [pb.FinishCount(finish_reason=pb.FINISH_REASON_EOS, count=len(explanations))]
        yield pb.StreamVerbalizeResponse(
            end=pb.StreamEnd(
                finish_counts=counts,
                usage=pb.Usage(generated_tokens=NUM_TOKENS * len(explanations)),
                timings=pb.Timings(total_seconds=1),
            )
        )

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


def explained(request: Any) -> Iterator[Any]:
    """Explanations of a batch, from rows, keys, seed and sample alone."""
    rows = decoded(request.activations)
    for index, row in enumerate(rows):
        item = request.items[index] if request.items else pb.ActivationItem()
        key = item.item_key if item.HasField("item_key") else index
        for sample in range(max(1, request.options.num_samples)):
            made = pb.Explanation(item_index=index, sample_index=sample)
            if not np.isfinite(row).all():
                made.error.CopyFrom(item_status("NON_FINITE_VECTOR"))
                made.finish_reason = pb.FINISH_REASON_ERROR
                yield made
                continue
            draw = (request.options.seed + 7 * key + 3 * sample) % 1000
            made.token_ids.extend(draw + token for token in range(NUM_TOKENS))
            made.explanation = f"{row.sum():g} {key} {draw}"
            made.raw_text = made.explanation
            made.logprob = -1.5
            made.finish_reason = pb.FINISH_REASON_CLOSING_TAG
            made.evidence.cosine = 0.5
            made.evidence.mse = 0.0
            made.evidence.flags.append(pb.EXPLANATION_FLAG_NO_FVE_BASELINE)
            yield made


def item_status(reason: str) -> status_pb2.Status:
    """Why an item failed alone."""
    status = status_pb2.Status(code=3, message=f"an item: {reason}")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason))
    return status


def decoded(tensor: Any) -> np.ndarray:
    """[n, d_model] float32."""
    raw = np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))
    if tensor.dtype == pb.TENSOR_DTYPE_BFLOAT16:
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def encoded(rows: np.ndarray, dtype: Any) -> Any:
    """Rows as a tensor; bfloat16 cut, not rounded: the rows of tests fit it."""
    if dtype == pb.TENSOR_DTYPE_BFLOAT16:
        data = (rows.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = rows.astype(DTYPES[dtype]).tobytes()
    return pb.Tensor(dtype=dtype, shape=rows.shape, data=data)


def text_row(text: str, d_model: int) -> np.ndarray:
    """What the pretended AR makes of a text: its length, and small numbers that fit every type."""
    return np.arange(d_model, dtype=np.float32) + len(text)
