"""What a stream of explanations has said so far, over all its pieces. Reads nothing itself."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import convert
from gloss_client.call import merged_timings, one_fingerprint
from gloss_client.enums import FINISH_REASONS, name_of
from gloss_client.errors import ServerError
from gloss_client.pieces import Piece
from gloss_client.results import StreamEvent, StreamSummary


class Message(NamedTuple):
    """A message of a piece's stream.

    Attributes:
        piece: whose.
        sent_after: seconds from the beginning of the call until the piece was sent.
        message: None: the stream came to its end.
    """

    piece: Piece
    sent_after: float
    message: pb.StreamVerbalizeResponse | None


class StreamState:
    """Messages in, events out."""

    def __init__(self) -> None:
        self.fingerprint: str | None = None
        self._ends: dict[Piece, tuple[pb.StreamEnd, float]] = {}

    def events(self, received: Message) -> list[StreamEvent]:
        """What a message brought, by the caller's indices.

        Raises:
            InconsistentReply: another piece came from other checkpoints.
            ServerError: a stream ended without its last message: something may be missing.
        """
        piece, sent_after, message = received
        if message is None:
            if piece not in self._ends:
                raise ServerError("the stream ended without its last message")
            return []
        if message.HasField("start"):
            got = message.start.fingerprint
            self.fingerprint = one_fingerprint((got, self.fingerprint or got))
        if message.HasField("end"):
            self._ends[piece] = (message.end, sent_after)
        return [
            *(convert.text_delta(delta, piece.start) for delta in message.deltas),
            *(convert.explanation(done, piece.start) for done in message.explanations),
        ]

    def summary(self) -> StreamSummary:
        """The whole stream, once all its pieces have ended."""
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
