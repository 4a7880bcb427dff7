"""A document: a text or a chat with an identity, and what makes two of them the same text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Facts = Mapping[str, str]
Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the input; exactly one of `text` and `messages` is given.

    Attributes:
        doc_id: whose it is; a hash of the content where the input states none.
        text: plain text.
        messages: a chat as (role, content) pairs.
        facts_at: of the tiny world, what the text's first so many characters have revealed.
    """

    doc_id: str
    text: str | None = None
    messages: Messages | None = None
    facts_at: Callable[[int], Facts] | None = None

    def __post_init__(self) -> None:
        assert (self.text is None) != (self.messages is None)

    @property
    def text_key(self) -> str:
        """Equal for documents whose words are equal, whatever their case and white space."""
        parts = [self.text] if self.text is not None else [c for _, c in self.messages or ()]
        return digest(" ".join(" ".join(part.split()).casefold() for part in parts))


def content_id(text: str | None, messages: Messages | None) -> str:
    """The doc_id of a document that has none: the same content has the same one anywhere."""
    return digest(json.dumps([text, messages]))


def digest(text: str) -> str:
    """32 hex digits of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
