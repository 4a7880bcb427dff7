"""What a call's streams have said so far, over all its pieces. Reads nothing itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import Cut, merged_timings, one_fingerprint
from gloss_client.enums import FINISH_REASONS, name_of
from gloss_client.errors import ServerError
from gloss_client.pieces import Piece
from gloss_client.results import StreamEvent, StreamSummary

Event_co = TypeVar("Event_co", covariant=True)
Summary_co = TypeVar("Summary_co", covariant=True)


class Message(NamedTuple):
    """A message of a piece's stream.

    Attributes:
        piece: whose.
        sent_after: seconds from the beginning of the call until the piece was sent.
        message: of the method's type; None: the stream came to its end.
    """

    piece: Piece
    sent_after: float
    message: Any | None


class StreamState(Protocol[Event_co, Summary_co]):
    """Messages in, events out, whichever method they are of."""

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the checkpoints that answer; None before the first message."""
        ...

    def events(self, received: Message) -> Sequence[Event_co]:
        """What a message brought, by the caller's indices.

        Raises:
            InconsistentReply: another piece came from other checkpoints.
            ServerError: something is missing.
        """
        ...

    def summary(self) -> Summary_co:
        """The whole, once all streams have ended."""
        ...


class StreamCall(Cut, Protocol[Event_co, Summary_co]):
    """A call whose replies are streams."""

    def state(self) -> StreamState[Event_co, Summary_co]:
        """Of a stream that begins."""
        ...


class ExplanationCall(StreamCall[Event_co, Summary_co], Protocol[Event_co, Summary_co]):
    """A call that streams explanations.

    Attributes:
        id: the call's id.
        seed: seed of the draws.
    """

    @property
    def id(self) -> str: ...

    @property
    def seed(self) -> int: ...


class StreamEnds:
    """First and last messages of streams of explanations: who answers, and what it came to.

    Attributes:
        fingerprint: of the checkpoints that answer; None before the first message.
    """

    def __init__(self) -> None:
        self.fingerprint: str | None = None
        self._ends: dict[Piece, tuple[pb.StreamEnd, float]] = {}

    def read(self, received: Message) -> Any | None:
        """The message, once its start and end are noted; None where its stream is over.

        Raises:
            InconsistentReply: another piece came from other checkpoints.
            ServerError: a stream ended without its first or its last message.
        """
        piece, sent_after, message = received
        if message is None:
            if piece not in self._ends or self.fingerprint is None:
                missing = "first" if self.fingerprint is None else "last"
                raise ServerError(f"the stream ended without its {missing} message")
            return None
        if message.HasField("start"):
            got = message.start.fingerprint
            self.fingerprint = one_fingerprint((got, self.fingerprint or got))
        if message.HasField("end"):
            self._ends[piece] = (message.end, sent_after)
        return message

    def summary(self) -> StreamSummary:
        """All streams together, once they have ended."""
        counts: Counter[str] = Counter()
        for end, _ in self._ends.values():
            for count in end.finish_counts:
                counts[name_of(FINISH_REASONS, count.finish_reason)] += count.count
        ends = list(self._ends.values())
        return StreamSummary(
            finish_counts=dict(counts),
            usage=convert.usage([end.usage for end, _ in ends]),
            timings=merged_timings([(end.timings, after) for end, after in ends]),
        )


class VerbalizeState:
    """State of a batch of activations that is explained. See StreamState."""

    def __init__(self) -> None:
        self._ends = StreamEnds()

    @property
    def fingerprint(self) -> str | None:
        return self._ends.fingerprint

    def events(self, received: Message) -> list[StreamEvent]:
        message = self._ends.read(received)
        return [] if message is None else explanation_events(message, received.piece.start)

    def summary(self) -> StreamSummary:
        return self._ends.summary()


def explanation_events(message: Any, first_index: int = 0) -> list[StreamEvent]:
    """A message's deltas and explanations; `first_index` is where its piece begins."""
    return [
        *(convert.text_delta(delta, first_index) for delta in message.deltas),
        *(convert.explanation(done, first_index) for done in message.explanations),
    ]
