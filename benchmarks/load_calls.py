"""The calls of a load test: what each RPC is asked for, and what is noted of its answer.

Plain synchronous stubs, so that whoever calls decides about threads: `locustfile.py` has gevent
beneath them, `soak.py` threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from load_records import CallRecord
from numpy.typing import NDArray

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_client.status import error_of

STORIES = (
    "Leo is a tailor. He meets Hugo. What will happen next? He eats fish. Then he stops.",
    "Mia is a baker. She has a silver key. It is a cloudy dawn. Time goes by and she waits.",
    "He waits in the old village. A brown coin lies on the table. The wind is soft. He is sad.",
)
"""Of the embedded pair's world; to another target they are English."""
PRIORITIES = {"interactive": pb.PRIORITY_INTERACTIVE, "batch": pb.PRIORITY_BATCH}
RPCS = (
    *("Verbalize", "StreamVerbalize", "Explain", "Watch", "Capture", "Reconstruct", "Score"),
    *("GetModelInfo", "GetStats"),
)
_MAX_SEED = 2**32
# A connection of its own: channels of one process to one address otherwise share one.
_CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20))
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each call asks for.

    Attributes:
        items: activations of a call; of Explain the text's last positions, of Watch generated
            tokens, of Capture, Reconstruct and Score texts.
        samples: explanations of each; max_new_tokens: most tokens of one.
        deadline: seconds from when the call is sent.
        priority: of Verbalize, StreamVerbalize and Explain.
    """

    items: int = 1
    samples: int = 1
    max_new_tokens: int = 120
    deadline: float = 30.0
    priority: str = "interactive"


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A connection of its own, encrypted where there are credentials."""
    if credentials is None:
        return grpc.insecure_channel(address, options=_CHANNEL)
    return grpc.secure_channel(address, credentials, options=_CHANNEL)


class LoadCaller:
    """Makes calls over one connection.

    Args:
        channel: the connection.
        work: what calls ask for.
        pool: [n, d_model] float32, activations to take rows from.
        texts: for RPCs that take any.
        rng: draws rows, texts and seeds.
        metadata: what calls send besides: who they are.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        work: Work,
        pool: NDArray[np.float32],
        rng: np.random.Generator,
        texts: tuple[str, ...] = STORIES,
        metadata: Metadata = (),
    ) -> None:
        self._work, self._pool, self._texts, self._rng = work, pool, texts, rng
        self._metadata = metadata
        self.stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)
        self._requests: dict[str, Callable[[], Any]] = {
            "Verbalize": self.verbalize,
            "StreamVerbalize": lambda: pb.StreamVerbalizeRequest(request=self.verbalize()),
            "Explain": self.explain,
            "Watch": self.watch,
            "Capture": self._capture,
            "Reconstruct": lambda: pb.ReconstructRequest(texts=self._some_texts()),
            "Score": self._score,
            "GetModelInfo": pb.GetModelInfoRequest,
            "GetStats": pb.GetStatsRequest,
        }

    def call(self, rpc: str, intended: float | None = None) -> CallRecord:
        """Make a call and wait for its end, whatever that is.

        Args:
            rpc: one of RPCS.
            intended: when it was due, monotonic seconds; None: now.
        """
        request = self._requests[rpc]()
        began = time.monotonic()
        record = CallRecord(rpc=rpc, intended=began if intended is None else intended, began=began)
        reply: Any = None
        try:
            reply = getattr(self.stub, rpc)(
                request, timeout=self._work.deadline, metadata=self._metadata
            )
            if isinstance(reply, grpc.Call):
                _read(reply, record)
            elif isinstance(reply, pb.VerbalizeResponse):
                _note(record, reply.explanations)
        except grpc.RpcError as error:
            ended: Any = error
            record.code = ended.code().name
            record.reason = error_of(ended, address="").reason
        finally:
            # Whoever is killed while it waits leaves no call behind.
            if isinstance(reply, grpc.Call):
                reply.cancel()
        record.ended = time.monotonic()
        return record

    def verbalize(self, items: int | None = None) -> pb.VerbalizeRequest:
        """A request for rows of the pool."""
        rows = self._rows(items or self._work.items)
        return pb.VerbalizeRequest(
            activations=_tensor(rows),
            options=self._options(),
            priority=PRIORITIES[self._work.priority],
        )

    def explain(self) -> pb.ExplainRequest:
        """A request for a text's last positions."""
        last = pb.PositionSelection(slice=pb.PositionSlice(start=-self._work.items))
        return pb.ExplainRequest(
            input=pb.TextInput(text=self._text()),
            positions=last,
            options=self._options(),
            priority=PRIORITIES[self._work.priority],
        )

    def watch(self) -> pb.WatchRequest:
        """A request for a few generated tokens."""
        return pb.WatchRequest(
            prompt=pb.TextInput(text=self._text()),
            target_options=pb.GenerationOptions(max_new_tokens=self._work.items, seed=self._seed()),
            options=self._options(),
        )

    def _capture(self) -> pb.CaptureRequest:
        texts = self._some_texts()
        return pb.CaptureRequest(
            inputs=[pb.CaptureInput(input=pb.TextInput(text=text)) for text in texts]
        )

    def _score(self) -> pb.ScoreRequest:
        activations = _tensor(self._rows(self._work.items))
        return pb.ScoreRequest(texts=self._some_texts(), activations=activations)

    def _options(self) -> pb.GenerationOptions:
        work = self._work
        return pb.GenerationOptions(
            num_samples=work.samples, max_new_tokens=work.max_new_tokens, seed=self._seed()
        )

    def _rows(self, count: int) -> NDArray[np.float32]:
        return self._pool[self._rng.integers(len(self._pool), size=count)]

    def _text(self) -> str:
        return self._texts[int(self._rng.integers(len(self._texts)))]

    def _some_texts(self) -> list[str]:
        return [self._text() for _ in range(self._work.items)]

    def _seed(self) -> int:
        return int(self._rng.integers(_MAX_SEED))


def _read(messages: Iterable[Any], record: CallRecord) -> None:
    """Read a stream to its end."""
    last: float | None = None
    for message in messages:
        if _brings(message):
            now = time.monotonic()
            if last is None:
                record.first = now
            else:
                record.gaps.append(now - last)
            last = now
        if not isinstance(message, pb.CaptureResponse):
            _note(record, message.explanations)


def _brings(message: Any) -> bool:
    """Whether a message has what its reader waits for: text, tokens or rows."""
    if isinstance(message, pb.CaptureResponse):
        return bool(message.rows)
    return bool(message.deltas) or (
        isinstance(message, pb.WatchResponse) and bool(message.target_tokens)
    )


def _note(record: CallRecord, explanations: Iterable[Any]) -> None:
    for explanation in explanations:
        if explanation.HasField("error"):
            record.failed += 1
        else:
            record.explanations += 1
        record.tokens += len(explanation.token_ids)


def _tensor(rows: NDArray[np.float32]) -> pb.Tensor:
    return pb.Tensor(
        dtype=pb.TENSOR_DTYPE_FLOAT32, shape=rows.shape, data=rows.astype("<f4").tobytes()
    )
