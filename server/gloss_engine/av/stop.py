"""The closing tag as a finite automaton over token ids.

State s means: the text so far ends with the first s characters of the tag and with no longer
beginning of it. A token moves the state by the characters it adds to the text, so the tag is found
wherever tokens cut it, also when one token holds the tag's end and more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gloss_engine.av.explanation import CLOSING_TAG

_MAX_ANCHORS = 64


def token_texts(tokenizer: Any, vocab_size: int) -> list[str]:
    """The text each token adds to what stands before it, special tokens included.

    Args:
        tokenizer: a fast tokenizer.
        vocab_size: rows of the head; ids the tokenizer does not know add nothing.

    Returns:
        One string for each id. Bytes that are no whole character come out as U+FFFD.
    """
    backend = tokenizer.backend_tokenizer
    size = min(vocab_size, backend.get_vocab_size(with_added_tokens=True))
    anchor = _anchor(backend, size)
    # Decoded behind an anchor, a token keeps the space or the continuation it begins with.
    before = backend.decode([anchor], skip_special_tokens=False)
    pairs = backend.decode_batch([[anchor, i] for i in range(size)], skip_special_tokens=False)
    texts = [text[len(before) :] if text.startswith(before) else text for text in pairs]
    return texts + [""] * (vocab_size - size)


def _anchor(backend: Any, size: int) -> int:
    """An id with visible text of its own, to decode others behind."""
    for index in range(min(size, _MAX_ANCHORS * 16)):
        text = backend.decode([index], skip_special_tokens=False)
        if text.isascii() and text.strip() == text and text.isalnum():
            return index
    return 0


def stop_table(texts: list[str], tag: str = CLOSING_TAG) -> Tensor:
    """Next states of the automaton.

    Args:
        texts: what each token adds, from `token_texts`.
        tag: the string to find.

    Returns:
        [len(tag) + 1, vocab_size] uint8; state len(tag) is final and kept.
    """
    assert 0 < len(tag) < 256
    final = len(tag)
    table = torch.zeros(final + 1, len(texts), dtype=torch.uint8)
    table[final] = final
    transitions = _characters(tag)
    fresh: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if text:
            fresh.setdefault(text, []).append(index)
        else:
            table[:final, index] = torch.arange(final, dtype=torch.uint8)
    for text, ids in fresh.items():
        if not (tag[0] in text or text[0] in tag):
            continue
        for state in range(final):
            after = _run(transitions, state, text)
            if after:
                table[state, ids] = after
    return table


def _characters(tag: str) -> list[dict[str, int]]:
    """Transitions of each state by character; characters not listed lead to 0."""
    rows = []
    for state in range(len(tag)):
        row = {}
        for char in set(tag):
            seen = tag[:state] + char
            row[char] = next(n for n in range(len(seen), -1, -1) if seen.endswith(tag[:n]))
        rows.append(row)
    return rows


def _run(transitions: list[dict[str, int]], state: int, text: str) -> int:
    for char in text:
        state = transitions[state].get(char, 0)
        if state == len(transitions):
            break
    return state
