"""A document as tokens, and the positions of it whose activations are wanted.

Text is encoded as the target reads it (plain text with the tokenizer's special tokens, a chat
rendered by its template and encoded without), and cut at the longest length. Positions are at or
behind `min_position`, never on a special token (the unknown word is not one) and, of a chat, never
on what its template writes around the messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError

from gloss_training.documents.document import Document
from gloss_training.seeds import generator_for


class Unencodable(Exception):
    """A document that the target's tokenizer cannot take; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A document's tokens.

    Attributes:
        text: what was encoded.
        token_ids: [t] int32, cut at the longest length.
        ends: [t] int32, how far into `text` each token reaches.
        is_own: [t] bool, whether it ends within the document's own words.
    """

    text: str
    token_ids: np.ndarray
    ends: np.ndarray
    is_own: np.ndarray

    def end(self, position: int) -> int:
        """How far into the text the tokens up to and including the one at `position` reach."""
        return int(self.ends[: position + 1].max())

    def before(self, position: int, max_chars: int) -> str:
        """The text up to and including the token at `position`, its last `max_chars` at most."""
        end = self.end(position)
        return self.text[max(0, end - max_chars) : end]


def encode_document(tokenizer: Any, document: Document, max_tokens: int) -> Encoded:
    """Tokens of a document.

    Raises:
        Unencodable: a chat without a template, one the template refuses, or text that is none.
    """
    text = document.text if document.messages is None else _render(tokenizer, document)
    assert text is not None
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unencodable("got a lone surrogate, expected text UTF-8 can hold") from None
    # No truncation by the tokenizer: some would keep a closing special token at its end.
    encoded = tokenizer(
        text,
        add_special_tokens=document.messages is None,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids, offsets = encoded["input_ids"][:max_tokens], encoded["offset_mapping"][:max_tokens]
    ends = np.array([end for _, end in offsets], np.int32).reshape(len(ids))
    is_own = np.zeros(len(ids), bool)
    for start, end in _own_words(document, text):
        is_own |= (ends > start) & (ends <= end)
    return Encoded(text=text, token_ids=np.array(ids, np.int32), ends=ends, is_own=is_own)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids whose positions are not read: what a template or the tokenizer writes, not the text."""
    added = tokenizer.added_tokens_decoder
    found = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return frozenset(found - {tokenizer.unk_token_id})


def choose_positions(
    encoded: Encoded,
    *,
    special: frozenset[int],
    min_position: int,
    count: int,
    seed: int,
    doc_id: str,
) -> tuple[int, ...]:
    """At most `count` distinct positions, ascending; the same for the same document and seed."""
    own = np.flatnonzero(encoded.is_own).tolist()
    ids = encoded.token_ids.tolist()
    usable = [at for at in own if at >= min_position and ids[at] not in special]
    generator = generator_for(seed, f"positions-{doc_id}")
    chosen = generator.choice(len(usable), size=min(count, len(usable)), replace=False)
    return tuple(usable[index] for index in sorted(chosen.tolist()))


def _own_words(document: Document, text: str) -> list[tuple[int, int]]:
    """Where in the encoded text the document's own words stand, as start and end."""
    if document.messages is None:
        return [(0, len(text))]
    found, at = [], 0
    for _, content in document.messages:
        # A template may strip them, or leave a message out.
        words = content.strip()
        start = text.find(words, at)
        if words and start >= 0:
            at = start + len(words)
            found.append((start, at))
    return found


def _render(tokenizer: Any, document: Document) -> str:
    if not tokenizer.chat_template:
        raise Unencodable("got a chat, but the target has no chat template")
    turns = [{"role": role, "content": content} for role, content in document.messages or ()]
    try:
        rendered: str = tokenizer.apply_chat_template(turns, tokenize=False)
    # A template is a program: it refuses in words of its own, or fails in any way.
    except TemplateError as error:
        raise Unencodable(f"the chat template refused the messages: {str(error)[:200]}") from None
    except Exception as error:
        kind = type(error).__name__
        raise Unencodable(f"the chat template failed on the messages: {kind}") from None
    return rendered
