"""The teacher: writes the facts a text has revealed as a few short English sentences.

It knows the truth, so it never invents. The wordings stand in tables here, and claims.py reads
sentences back by the same tables, so that every claim of an explanation can be checked.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np

from gloss_training.attributes import is_male
from gloss_training.world import SLOT_PATTERN, Story, pick, split_words

UNKNOWN_WORD: Final = "[UNK]"
SENTENCE_ENDS: Final = (".", "?", "!")

# Whole sentences. Among those whose slots are exactly the known facts of the group, one is drawn.
IDENTITY: Final = (
    "The hero is {hero}, a {job}.",
    "This is about {hero}, a {job}.",
    "The story follows {hero} the {job}.",
    "The hero is {hero}.",
    "This is about {hero}.",
    "The story follows {hero}.",
    "The hero is a {job}.",
    "This is about a {job}.",
    "The story follows a {job}.",
)
SETTING: Final = (
    "It is a {weather} {time}.",
    "The {time} is {weather}.",
    "It is {weather}.",
    "The weather is {weather}.",
    "It is {time}.",
    "The time is {time}.",
)
ENDING: Final = (
    "The text ends with “{ending}”.",
    "It breaks off after “{ending}”.",
    "The last words are “{ending}”.",
)
ENDING_UNKNOWN: Final = (
    "The text ends with an unknown word.",
    "It breaks off after an unknown word.",
)

# Predicates: said of a subject, one or two to a sentence, joined by "and".
SUBJECTS: Final = ("He", "She", "The hero")
PREDICATES: Final = (
    (
        "is in the {place} with {friend}",
        "is with {friend} in the {place}",
        "meets {friend} in the {place}",
        "is in the {place}",
        "has come to the {place}",
        "is with {friend}",
        "meets {friend}",
    ),
    (
        "has a {color} {thing}",
        "has found a {color} {thing}",
        "has a {thing}",
        "has found a {thing}",
        "has something {color}",
        "has found something {color}",
    ),
    ("feels {mood}", "is {mood}"),
    ("eats {food}", "has {food} to eat"),
)


@cache
def slots(template: str) -> frozenset[str]:
    """Names of the slots of a wording."""
    return frozenset(SLOT_PATTERN.findall(template))


def ending_of(words: Sequence[str], num_words: int) -> str:
    """The last words of the last sentence, at most `num_words`; unknown words are not quoted."""
    last = list(words[-num_words:])
    if last[-1] == UNKNOWN_WORD:
        return UNKNOWN_WORD
    for index in range(len(last) - 2, -1, -1):
        if last[index] in (*SENTENCE_ENDS, UNKNOWN_WORD):
            return " ".join(last[index + 1 :])
    return " ".join(last)


def explain(
    story: Story, position: int, generator: np.random.Generator, num_ending_words: int
) -> str:
    """Every fact revealed up to and including word `position`, and the last words, as sentences."""
    facts = story.revealed(position)
    ending = ending_of(story.words[: position + 1], num_ending_words)
    return write(facts, ending, generator)


def write(facts: Mapping[str, str], ending: str, generator: np.random.Generator) -> str:
    """Explanation text for `facts` (attribute to value) and the last words of the text."""
    sentences = [_choose(IDENTITY, facts, generator)]
    predicates = [_choose(group, facts, generator) for group in PREDICATES]
    stated = [predicate for predicate in predicates if predicate]
    for index in range(0, len(stated), 2):
        sentences.append(f"{_subject(facts)} {' and '.join(stated[index : index + 2])}.")
    sentences.append(_choose(SETTING, facts, generator))
    if ending == UNKNOWN_WORD:
        sentences.append(pick(generator, ENDING_UNKNOWN))
    else:
        sentences.append(pick(generator, ENDING).format(ending=_close_up(ending)))
    return " ".join(sentence for sentence in sentences if sentence)


def teacher_words() -> list[str]:
    """Every word an explanation can contain besides the words of the story, sorted."""
    templates = [*IDENTITY, *SETTING, *ENDING, *ENDING_UNKNOWN, *SUBJECTS, "and"]
    templates += [template for group in PREDICATES for template in group]
    return sorted(set(split_words(" ".join(SLOT_PATTERN.sub(" ", t) for t in templates))))


def _choose(
    wordings: tuple[str, ...], facts: Mapping[str, str], generator: np.random.Generator
) -> str:
    """A wording of exactly the known facts of its group, filled in; empty when none is known."""
    known = _group(wordings) & facts.keys()
    usable = [wording for wording in wordings if slots(wording) == known]
    return pick(generator, usable).format_map(facts) if usable else ""


@cache
def _group(wordings: tuple[str, ...]) -> frozenset[str]:
    """Attributes that a group of wordings states."""
    return frozenset[str]().union(*(slots(wording) for wording in wordings))


def _subject(facts: Mapping[str, str]) -> str:
    """The pronoun of a known hero."""
    if "hero" not in facts:
        return "The hero"
    return "He" if is_male(facts["hero"]) else "She"


def _close_up(words: str) -> str:
    """Words with the usual spacing before punctuation: "kite ." becomes "kite."."""
    for mark in ".,?!":
        words = words.replace(f" {mark}", mark)
    return words
