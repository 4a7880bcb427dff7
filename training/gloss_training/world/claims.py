"""Reads explanations back as claims and checks every claim against the text it explains.

The inverse of `grammar.py`, by the same tables of wordings. A sentence in no known wording states
nothing here: it is counted, never guessed at.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from gloss_training.world import grammar
from gloss_training.world.attributes import ATTRIBUTES
from gloss_training.world.stories import SENTENCE_MARKS, UNKNOWN_WORD, split_words
from gloss_training.world.templates import SLOT_PATTERN

ENDING: Final = "ending"
SENTENCE_PATTERN: Final = re.compile(r"(?:“[^“”]*”|[^.“])+(?:\.|$)|“[^”]*$")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One stated fact; attribute `ending` for a statement about the last words."""

    attribute: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an explanation says: its claims, and how many sentences could (not) be read."""

    claims: tuple[Claim, ...]
    num_sentences: int
    num_unparsed: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Counts over one explanation; `facts` are attributes, the ending is counted apart."""

    num_facts: int
    num_facts_right: int
    num_endings: int
    num_endings_right: int
    num_revealed: int
    num_recalled: int
    num_sentences: int
    num_unparsed: int


def parse(explanation: str) -> Reading:
    """Claims of an explanation in the order stated. Spacing does not matter."""
    sentences = [s for s in SENTENCE_PATTERN.findall(_spaced(explanation)) if s.strip()]
    claims: list[Claim] = []
    num_unparsed = 0
    for sentence in sentences:
        stated = _read_sentence(sentence.strip())
        if stated is None:
            num_unparsed += 1
        else:
            claims.extend(stated)
    return Reading(claims=tuple(claims), num_sentences=len(sentences), num_unparsed=num_unparsed)


def is_right(claim: Claim, revealed: Mapping[str, str], words: Sequence[str]) -> bool:
    """Whether the text, `words` up to the position explained, has said what is claimed."""
    if claim.attribute != ENDING:
        return revealed.get(claim.attribute) == claim.value
    if claim.value == UNKNOWN_WORD:
        return words[-1] == UNKNOWN_WORD
    if claim.value == grammar.SENTENCE_END:
        return words[-1] in SENTENCE_MARKS
    stated = claim.value.split()
    return list(words[-len(stated) :]) == stated


def judge(explanation: str, revealed: Mapping[str, str], words: Sequence[str]) -> Verdict:
    """Checks an explanation against the facts `revealed` by `words`. Repeats count each time."""
    reading = parse(explanation)
    right = [claim for claim in reading.claims if is_right(claim, revealed, words)]
    return Verdict(
        num_facts=sum(claim.attribute != ENDING for claim in reading.claims),
        num_facts_right=sum(claim.attribute != ENDING for claim in right),
        num_endings=sum(claim.attribute == ENDING for claim in reading.claims),
        num_endings_right=sum(claim.attribute == ENDING for claim in right),
        num_revealed=len(revealed),
        num_recalled=len({claim.attribute for claim in right} - {ENDING}),
        num_sentences=reading.num_sentences,
        num_unparsed=reading.num_unparsed,
    )


def _spaced(text: str) -> str:
    return " ".join(split_words(text))


def _read_sentence(sentence: str) -> list[Claim] | None:
    """Claims of one spaced sentence; None when no wording fits."""
    for pattern in _sentence_patterns():
        match = pattern.fullmatch(sentence)
        if match:
            return list(_claims_of(match))
    for ending in (UNKNOWN_WORD, grammar.SENTENCE_END):
        if sentence in {_spaced(wording) for wording in grammar.wordings_of_ending(ending)}:
            return [Claim(attribute=ENDING, value=ending)]
    return _read_predicates(sentence)


def _read_predicates(sentence: str) -> list[Claim] | None:
    """Claims of "<subject> <predicate> and <predicate> ."; None when a part does not fit."""
    subject = next((s for s in grammar.SUBJECTS if sentence.startswith(f"{s} ")), None)
    if subject is None or not sentence.endswith(" ."):
        return None
    claims: list[Claim] = []
    for part in sentence[len(subject) + 1 : -2].split(" and "):
        match = next(filter(None, (p.fullmatch(part) for p in _predicate_patterns())), None)
        if match is None:
            return None
        claims.extend(_claims_of(match))
    return claims


def _claims_of(match: re.Match[str]) -> Iterator[Claim]:
    for attribute, value in match.groupdict().items():
        yield Claim(attribute=attribute, value=value)


@cache
def _sentence_patterns() -> tuple[re.Pattern[str], ...]:
    return _compile((*grammar.IDENTITY, *grammar.SETTING, *grammar.CALENDAR, *grammar.ENDING))


@cache
def _predicate_patterns() -> tuple[re.Pattern[str], ...]:
    return _compile(template for group in grammar.PREDICATES for template in group)


def _compile(templates: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_expression(template)) for template in templates)


def _expression(template: str) -> str:
    """Regular expression of a wording: words spaced, each slot a group over its values."""
    pieces = re.split(r"(\{\w+\})", template)
    return r" ".join(
        expression
        for piece in pieces
        if (expression := _slot(piece) if SLOT_PATTERN.fullmatch(piece) else _literal(piece))
    )


def _slot(piece: str) -> str:
    name = piece[1:-1]
    values = r"[^“”]+?" if name == ENDING else "|".join(ATTRIBUTES[name])
    return f"(?P<{name}>{values})"


def _literal(piece: str) -> str:
    return " ".join(re.escape(word) for word in split_words(piece))
