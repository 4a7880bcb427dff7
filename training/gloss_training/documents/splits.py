"""Which split a document belongs to: by a hash of its id, so that adding documents moves none.

Documents of equal text go to the split of the first of them, and rows of one doc_id stay together.
A document that would have to be in two splits at once is left out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gloss_training.documents.document import Document
from gloss_training.setting_checks import finite, not_negative

SPLITS: Final = ("av", "ar", "rl", "heldout")
_TWO_TO_64: Final = 1 << 64


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Shares of the documents; they are divided by their sum.

    Attributes:
        av, ar: of the two supervised stages.
        rl: of reinforcement learning, which needs no explanations.
        heldout: of the evaluation; nothing trains on them.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    av: float = 0.24
    ar: float = 0.24
    rl: float = 0.5
    heldout: float = 0.02

    def __post_init__(self) -> None:
        for split in SPLITS:
            not_negative(f"data.shares.{split}", getattr(self, split))
            finite(f"data.shares.{split}", getattr(self, split))
        if not sum(getattr(self, split) for split in SPLITS):
            raise ValueError("data.shares: got 0 for every split, expected more for some")

    def fraction(self, split: str) -> float:
        """A split's share of all documents, 0 to 1."""
        total: float = sum(getattr(self, each) for each in SPLITS)
        return float(getattr(self, split)) / total

    def split_of(self, doc_id: str) -> str:
        """The split of a doc_id alone."""
        hashed = int.from_bytes(hashlib.sha256(f"split|{doc_id}".encode()).digest()[:8], "little")
        at = hashed / _TWO_TO_64 * sum(getattr(self, split) for split in SPLITS)
        last = ""
        for split in SPLITS:
            share = getattr(self, split)
            if share and at < share:
                return split
            at -= share
            last = split if share else last
        # What rounding leaves over.
        return last


class Splitter:
    """Gives documents their splits, in the order of the input; those behind never move one."""

    def __init__(self, shares: SplitShares) -> None:
        self._shares = shares
        self._by_text: dict[str, str] = {}
        self._by_id: dict[str, str] = {}

    def place(self, document: Document) -> str | None:
        """The document's split; None where its text is in one split and its doc_id in another."""
        by_text = self._by_text.get(document.text_key)
        by_id = self._by_id.get(document.doc_id)
        if by_text and by_id and by_text != by_id:
            return None
        split = by_text or by_id or self._shares.split_of(document.doc_id)
        self._by_text[document.text_key] = self._by_id[document.doc_id] = split
        return split
