"""How a batch that is too large for one call is cut.

A batch that any server takes goes out at once, uncut and without asking for limits first. Others
are cut by the server's limits. The client's idea of a reply's size is an estimate: a piece that the
server refuses for its size is halved (`progress.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gloss_client.model_info import Limits

MIB = 1024 * 1024
# What one call carries without asking for limits: below every server's that has not been set very
# small, and below the 4 MiB that gRPC receives by default.
ONE_CALL_ITEMS = 64
ONE_CALL_BYTES = 3 * MIB
# A request besides its items: names, options, stop strings.
HEAD_BYTES = 64 * 1024
# An explanation in a reply besides its tokens, and a token of it: 3 bytes of id, and its text in
# `explanation` and in `raw_text`, 4 to 5 bytes each in English. Generous: not all text is English.
EXPLANATION_BYTES = 1024
TOKEN_BYTES = 32
DEFAULT_MAX_NEW_TOKENS = 200


@dataclass(frozen=True)
class Piece:
    """Items `start` to `stop` (exclusive) of a batch."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def halves(self) -> tuple[Piece, Piece]:
        """Two pieces in place of this one, which has at least two items."""
        middle = (self.start + self.stop) // 2
        return Piece(self.start, middle), Piece(middle, self.stop)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a batch asks of a server.

    Attributes:
        item_bytes: [n] bytes of each item in a request.
        reply_bytes: most bytes of one item in a unary reply; 0 for streams.
        explanations: explanations of one item; 0: it generates none.
        tokens: most tokens of one item.
    """

    item_bytes: Sequence[int]
    reply_bytes: int
    explanations: int = 0
    tokens: int = 0

    @property
    def whole(self) -> Piece:
        """The batch as one piece."""
        return Piece(0, len(self.item_bytes))

    def fits_one_call(self) -> bool:
        """Whether it is so small that limits need not be asked for."""
        num_items = len(self.item_bytes)
        return (
            num_items <= ONE_CALL_ITEMS
            and sum(self.item_bytes) + HEAD_BYTES <= ONE_CALL_BYTES
            and num_items * self.reply_bytes <= ONE_CALL_BYTES
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Pieces of a batch, in order, and how many of them may be under way at once."""

    pieces: tuple[Piece, ...]
    in_flight: int

    @classmethod
    def uncut(cls, load: Load, max_in_flight: int) -> Plan:
        """One piece."""
        return cls(pieces=(load.whole,), in_flight=max_in_flight)

    @classmethod
    def within(cls, limits: Limits, load: Load, max_in_flight: int) -> Plan:
        """As few pieces as the limits allow, but two at a time where the queue is the limit."""
        most_items = limits.max_items
        if load.reply_bytes:
            most_items = min(most_items, limits.max_reply_bytes // load.reply_bytes)
        queue_items = _queue_items(limits, load)
        if queue_items < len(load.item_bytes):
            most_items = min(most_items, queue_items // 2)
        pieces = _cut(load.item_bytes, max(1, most_items), limits.max_request_bytes - HEAD_BYTES)
        largest = max(map(len, pieces))
        return cls(pieces=pieces, in_flight=max(1, min(max_in_flight, queue_items // largest)))


def _queue_items(limits: Limits, load: Load) -> int:
    """How many items the server's queue holds; texts have no such limit."""
    if not load.explanations:
        return sys.maxsize
    return min(
        limits.max_queued_explanations // load.explanations,
        limits.max_queued_tokens // max(1, load.tokens),
    )


def _cut(item_bytes: Sequence[int], most_items: int, most_bytes: int) -> tuple[Piece, ...]:
    """Pieces of at most so many items and bytes; an item over the bytes is a piece of its own."""
    pieces, start, size = [], 0, 0
    for index, added in enumerate(item_bytes):
        if index > start and (index - start == most_items or size + added > most_bytes):
            pieces.append(Piece(start, index))
            start, size = index, 0
        size += added
    pieces.append(Piece(start, len(item_bytes)))
    return tuple(pieces)
