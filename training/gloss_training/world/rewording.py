"""Other words for what an explanation of the tiny world states, by its grammar.

The claims are read back (claims.py) and written again (teacher.py). A sentence in no known wording
states nothing, and is not in the rewording.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gloss_training.world import grammar
from gloss_training.world.claims import ENDING, SENTENCE_PATTERN, Claim, parse
from gloss_training.world.stories import split_words

NUM_DRAFTS: Final = 8
"""Drafts of a rewording, of which the one that shares fewest sentences is taken."""


def reword(explanation: str, generator: np.random.Generator) -> str:
    """The claims of an explanation in other wordings, each once; "" where it states nothing."""
    claims = parse(explanation).claims
    old = _sentences(explanation)
    drafts = [_write(claims, generator) for _ in range(NUM_DRAFTS)]
    return min(drafts, key=lambda draft: len(old & _sentences(draft)))


def _write(claims: Sequence[Claim], generator: np.random.Generator) -> str:
    """An explanation that states two values of an attribute is written as two, one after the
    other."""
    parts = []
    for facts in _consistent(claims):
        ending = facts.pop(ENDING, None)
        parts.append(grammar.write(facts, ending, generator))
    return " ".join(parts)


def _consistent(claims: Sequence[Claim]) -> list[dict[str, str]]:
    """The claims as few groups, each with one value of an attribute."""
    groups: list[dict[str, str]] = []
    for claim in dict.fromkeys(claims):
        free = next((group for group in groups if claim.attribute not in group), None)
        if free is None:
            free = {}
            groups.append(free)
        free[claim.attribute] = claim.value
    return groups


def _sentences(text: str) -> set[str]:
    return {s.strip() for s in SENTENCE_PATTERN.findall(" ".join(split_words(text)))}
