"""What is read of each document: its split, its tokens, its positions. Nothing is run yet.

All documents are held in memory, with their tokens: 100,000 of 1,000 tokens take about 1 GB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from gloss_training.documents.document import Document
from gloss_training.documents.positions import (
    Encoded,
    Unencodable,
    choose_positions,
    encode_document,
    special_ids,
)
from gloss_training.documents.reading import Failure
from gloss_training.documents.settings import DataSettings
from gloss_training.documents.splits import SPLITS, SplitShares, Splitter
from gloss_training.errors import DocumentError
from gloss_training.passage import Passage

_SHOWN: Final = 5


@dataclass(frozen=True, kw_only=True)
class PlannedDocument:
    """A document with what is wanted of it; at least one position."""

    document: Document
    split: str
    encoded: Encoded
    positions: tuple[int, ...]

    def passages(self, max_chars: int) -> Iterator[Passage]:
        """What stands before each position, in order."""
        facts_at = self.document.facts_at
        for position in self.positions:
            yield Passage(
                doc_id=self.document.doc_id,
                position=position,
                text=self.encoded.before(position, max_chars),
                facts=None if facts_at is None else facts_at(self.encoded.end(position)),
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Documents to read, in the order of the input, and those that cannot be."""

    documents: tuple[PlannedDocument, ...]
    failures: tuple[Failure, ...]

    def require_splits(self, shares: SplitShares) -> None:
        """Refuses a plan in which a split that has a share of the documents got none.

        Raises:
            DocumentError: which split, its share, and of how many documents.
        """
        count = len(self.documents)
        for split in SPLITS:
            share, fraction = getattr(shares, split), shares.fraction(split)
            if not share or self._num_documents(split):
                continue
            left_out = f" ({len(self.failures):,} more are left out)" if self.failures else ""
            without = ", or data.shares.rl = 0 for a run without RL" if split == "rl" else ""
            raise DocumentError(
                f"split {split}",
                got=f"none of {count:,} documents{left_out}; data.shares.{split} = {share:g} is "
                f"{fraction:.2%} of them, {fraction * count:.1f}, and where each one goes hangs on "
                "a hash of its doc_id",
                expected="one or more",
                fix=f"Give more documents, or a larger data.shares.{split}{without}.",
            )

    def figures(self) -> dict[str, int]:
        """Counts for the stage's record."""
        by_reason = Counter(failure.reason.lower() for failure in self.failures)
        return {
            "num_documents": len(self.documents),
            **{f"num_{split}_documents": self._num_documents(split) for split in SPLITS},
            "num_documents_left_out": len(self.failures),
            **{f"num_{reason}": count for reason, count in sorted(by_reason.items())},
        }

    def failure_lines(self) -> list[str]:
        """The first failures, for people."""
        lines = [str(failure) for failure in self.failures[:_SHOWN]]
        more = len(self.failures) - len(lines)
        return [*lines, f"and {more:,} more"] if more else lines

    def _num_documents(self, split: str) -> int:
        return sum(d.split == split for d in self.documents)


def plan_documents(
    given: Iterable[Document | Failure], tokenizer: Any, settings: DataSettings, seed: int
) -> Plan:
    """Places and encodes every document.

    Raises:
        DocumentError: none can be used.
    """
    splitter = Splitter(settings.shares)
    special = special_ids(tokenizer)
    seen: set[tuple[str, str | None, object]] = set()
    planned: list[PlannedDocument] = []
    failures: list[Failure] = []

    def leave_out(doc_id: str, reason: str, message: str) -> None:
        failures.append(Failure(place=f"document {doc_id}", reason=reason, message=message))

    for document in given:
        if isinstance(document, Failure):
            failures.append(document)
            continue
        key = (document.doc_id, document.text, document.messages)
        if key in seen:
            leave_out(document.doc_id, "DUPLICATE", "got the same doc_id and text again")
            continue
        seen.add(key)
        split = splitter.place(document)
        if split is None:
            leave_out(
                document.doc_id,
                "TWO_SPLITS",
                "its text is in one split already and its doc_id in another",
            )
            continue
        try:
            encoded = encode_document(tokenizer, document, settings.max_document_tokens)
        except Unencodable as error:
            leave_out(document.doc_id, "UNENCODABLE", str(error))
            continue
        positions = choose_positions(
            encoded,
            special=special,
            min_position=settings.min_position,
            count=settings.positions_per_document,
            seed=seed,
            doc_id=document.doc_id,
        )
        if positions:
            planned.append(
                PlannedDocument(
                    document=document, split=split, encoded=encoded, positions=positions
                )
            )
        else:
            got = f"got {len(encoded.token_ids)} tokens, expected some behind position "
            leave_out(document.doc_id, "TOO_SHORT", f"{got}{settings.min_position}")
    if not planned:
        raise _none_of(failures)
    return Plan(documents=tuple(planned), failures=tuple(failures))


def _none_of(failures: list[Failure]) -> DocumentError:
    first = f"; the first: {failures[0]}" if failures else ""
    return DocumentError(
        "data.documents",
        got=f"no document that can be used of {len(failures)}{first}",
        expected="one or more",
        fix="Look at the file, or lower data.min_position.",
    )
