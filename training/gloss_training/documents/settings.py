"""Settings of the data stage: which documents, which positions, which of them are explained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from gloss_training.documents.splits import SPLITS, SplitShares
from gloss_training.setting_checks import at_most, not_negative, one_of, positive

READERS: Final = ("engine", "transformers")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data stage.

    Attributes:
        documents: a .jsonl, .parquet or .txt file, or a directory of them; "" for the tiny world,
            which makes its own.
        num_documents: the first so many; 0: all. Of the tiny world, how many stories.
        shares: how documents are divided into splits.
        positions_per_document: most positions that are read of one document.
        min_position: the first of them; early ones read badly.
        max_document_tokens: longer documents are cut.
        max_passage_chars: of the text before a position, how much of its end is kept and shown to
            the teacher.
        explained: splits that the teacher explains; rl needs no explanations.
        documents_per_part: documents that are captured and written at once.
        reader: what runs the target: the engine, or transformers for an architecture that the
            engine does not know.
        max_dropped_share: of explained rows whose answer was no use; more ends the run.
        max_unanswered_share: of questions that got no answer; more ends the run.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    documents: str = ""
    num_documents: int = 0
    shares: SplitShares = field(default_factory=SplitShares)
    positions_per_document: int = 8
    min_position: int = 50
    max_document_tokens: int = 2048
    max_passage_chars: int = 8000
    explained: tuple[str, ...] = ("av", "ar", "heldout")
    documents_per_part: int = 256
    reader: str = "engine"
    max_dropped_share: float = 0.5
    max_unanswered_share: float = 0.01

    def __post_init__(self) -> None:
        for name in ("positions_per_document", "max_document_tokens", "max_passage_chars"):
            positive(f"data.{name}", getattr(self, name))
        positive("data.documents_per_part", self.documents_per_part)
        for name in ("num_documents", "min_position", "max_dropped_share", "max_unanswered_share"):
            not_negative(f"data.{name}", getattr(self, name))
        for name in ("max_dropped_share", "max_unanswered_share"):
            at_most(f"data.{name}", getattr(self, name), 1)
        for split in ("av", "ar", "heldout"):
            positive(f"data.shares.{split}", getattr(self.shares, split))
        one_of("data.reader", self.reader, READERS)
        for split in self.explained:
            one_of("data.explained", split, SPLITS)
        if len(set(self.explained)) < len(self.explained):
            raise ValueError(
                f"data.explained: got {', '.join(self.explained)}, expected each split once"
            )
        for split in ("av", "ar"):
            if split not in self.explained:
                raise ValueError(
                    f"data.explained: got {', '.join(self.explained) or 'none'}, expected {split} "
                    "among them: it is trained on explanations"
                )
