"""What a batch needs so that it can be sent in pieces, and what is common to their replies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import InconsistentReply
from gloss_client.pieces import Load, Piece
from gloss_client.results import Timings


class Answered(Protocol):
    """A result that says which checkpoints it is from."""

    @property
    def fingerprint(self) -> str: ...


Result_co = TypeVar("Result_co", bound=Answered, covariant=True)


@dataclass(frozen=True)
class Part:
    """An answered piece.

    Attributes:
        piece: which items.
        reply: the contract's reply.
        sent_after: seconds from the beginning of the call until the piece was sent.
    """

    piece: Piece
    reply: Any
    sent_after: float


class Cut(Protocol):
    """A call that can be sent in pieces, whichever method it goes to. Two clients send it; it knows
    neither.

    Attributes:
        method: the method's name in the contract.
    """

    @property
    def method(self) -> str: ...

    def load(self, d_model: int | None) -> Load:
        """What it asks of a server whose activations are so wide; None: not known yet."""
        ...

    def request(self, piece: Piece) -> Any:
        """The request that carries a piece."""
        ...

    def request_id(self, piece: Piece) -> str | None:
        """The id of that request; None where the method has none."""
        ...


class BatchCall(Cut, Protocol[Result_co]):
    """A call whose replies come whole."""

    def merge(self, parts: list[Part]) -> Result_co:
        """The result of all pieces, which come in order."""
        ...


def one_fingerprint(fingerprints: Iterable[str]) -> str:
    """The fingerprint that all pieces share.

    Raises:
        InconsistentReply: they do not: results of two models would stand in one batch.
    """
    distinct = sorted(set(fingerprints))
    if len(distinct) > 1:
        raise InconsistentReply(
            f"got pieces of one batch from checkpoints {' and '.join(distinct)}, expected one; a "
            "server was replaced meanwhile, or the servers differ: run the batch again"
        )
    return distinct[0]


def merged_timings(timings: list[tuple[pb.Timings, float]]) -> Timings:
    """Timings of pieces, each with the seconds until it was sent, as those of the whole call."""
    first_tokens = [
        sent_after + one.first_token_seconds
        for one, sent_after in timings
        if one.HasField("first_token_seconds")
    ]
    first_sent = min(sent_after for _, sent_after in timings)
    return Timings(
        queue_seconds=min(sent_after + one.queue_seconds for one, sent_after in timings)
        - first_sent,
        first_token_seconds=min(first_tokens) - first_sent if first_tokens else None,
        total_seconds=max(sent_after + one.total_seconds for one, sent_after in timings)
        - first_sent,
    )
