"""A passage: the text before a position, which an explanation of the activation there is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The text up to and including the token at a position.

    Attributes:
        doc_id: of the document.
        position: of the token, from 0.
        text: its end, at most `data.max_passage_chars` long.
        facts: of the tiny world, what the text has revealed.
    """

    doc_id: str
    position: int
    text: str
    facts: Mapping[str, str] | None = None
