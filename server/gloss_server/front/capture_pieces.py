"""A Capture call's texts, cut into pieces that the engine reads one after the other.

Two pieces of a call are in flight at most: one is read while the one before is written. So a call
holds no more rows than theirs, whatever it asks for, and who reads slowly slows down himself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from gloss_engine.errors import ItemError
from gloss_engine.text_request import CaptureRequest, TextInput
from gloss_server.front.options import Limits
from gloss_server.front.reading_text import CaptureWanted
from gloss_server.front.text_input import most_tokens

_PIECE_BYTES = 16 << 20
"""Of a piece's rows in float32, where it has more than one text."""
_PIECE_SHARE = 16
"""Pieces that the room for texts holds: a call that nobody reads takes an eighth of it."""
_PIECE_TEXTS = 64


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Texts that the engine gets together.

    Attributes:
        indices: their places in the call.
        num_tokens: most tokens they may have.
        request: for the engine.
    """

    indices: tuple[int, ...]
    num_tokens: int
    request: CaptureRequest


class CapturePieces:
    """The pieces of a call.

    Args:
        wanted: what the call asks for.
        limits: of the server.

    Attributes:
        failures: texts, by their places, that no piece has, and why.
        num_tokens: most tokens of two pieces in a row.
    """

    def __init__(self, wanted: CaptureWanted, limits: Limits) -> None:
        self._wanted, self._limits = wanted, limits
        self.failures: list[tuple[int, ItemError]] = []
        self._pieces = list(self._cut())
        sizes = [piece.num_tokens for piece in self._pieces]
        # The last one has none behind it.
        self.num_tokens = max(map(sum, zip_longest(sizes, sizes[1:], fillvalue=0)), default=0)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def _cut(self) -> Iterator[Piece]:
        info = self._limits.model.info
        most = min(
            _PIECE_BYTES // (4 * info.av.d_model),
            self._limits.settings.max_queued_text_tokens // _PIECE_SHARE,
        )
        texts: list[tuple[int, TextInput]] = []
        num_tokens = 0
        for index, text in enumerate(self._wanted.inputs):
            if isinstance(text, ItemError):
                self.failures.append((index, text))
                continue
            more = most_tokens(text, info)
            if texts and (num_tokens + more > most or len(texts) == _PIECE_TEXTS):
                yield self._piece(texts, num_tokens)
                texts, num_tokens = [], 0
            texts.append((index, text))
            num_tokens += more
        if texts:
            yield self._piece(texts, num_tokens)

    def _piece(self, texts: list[tuple[int, TextInput]], num_tokens: int) -> Piece:
        indices, inputs = zip(*texts, strict=True)
        request = CaptureRequest(
            inputs=inputs,
            positions=self._wanted.positions,
            layer_index=self._wanted.layer_index,
        )
        return Piece(indices=indices, num_tokens=num_tokens, request=request)
