"""The teacher: writes the facts a text has revealed as a few short English sentences.

It knows the truth, so it never invents. The wordings stand in tables here, and claims.py reads
sentences back by the same tables, so that every claim of an explanation can be checked.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import numpy as np

from gloss_training.world.attributes import FEWEST_ATTRIBUTES, is_male
from gloss_training.world.stories import (
    SENTENCE_MARKS,
    UNKNOWN_WORD,
    Story,
    pick,
    split_words,
)
from gloss_training.world.templates import SLOT_PATTERN, usable

SENTENCE_END: Final = "."

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
    "The weather is {weather} and it is {time}.",
    "It is {weather}.",
    "The weather is {weather}.",
    "It is {time}.",
    "The time is {time}.",
)
CALENDAR: Final = (
    "It is {month}.",
    "The month is {month}.",
    "It happens in {month}.",
)
ENDING: Final = (
    "The text ends with “{ending}”.",
    "It breaks off after “{ending}”.",
    "The last word is “{ending}”.",
)
ENDING_SENTENCE: Final = (
    "The last sentence is complete.",
    "A sentence has just ended.",
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
    ("drinks {drink}", "has {drink} to drink"),
    ("wears a {garment}", "has put on a {garment}"),
    ("keeps a {animal}", "has a {animal} at home"),
    ("plays the {instrument}", "knows how to play the {instrument}"),
    ("travels by {vehicle}", "has come by {vehicle}"),
)


@cache
def slots(template: str) -> frozenset[str]:
    """Names of the slots of a wording."""
    return frozenset(SLOT_PATTERN.findall(template))


def ending_of(words: Sequence[str], num_words: int) -> str:
    """The last words of an unfinished sentence, at most `num_words`.

    SENTENCE_END after a whole one, UNKNOWN_WORD after an unknown word: neither is quoted.
    """
    last = list(words[-num_words:])
    if last[-1] == UNKNOWN_WORD:
        return UNKNOWN_WORD
    if last[-1] in SENTENCE_MARKS:
        return SENTENCE_END
    for index in range(len(last) - 2, -1, -1):
        if last[index] in (*SENTENCE_MARKS, UNKNOWN_WORD):
            return " ".join(last[index + 1 :])
    return " ".join(last)


def explain(
    story: Story, position: int, generator: np.random.Generator, num_ending_words: int
) -> str:
    """Every fact revealed up to and including word `position`, and the last words, as sentences."""
    facts = story.revealed(position)
    ending = ending_of(story.words[: position + 1], num_ending_words)
    return write(facts, ending, generator)


def some_of(
    facts: Mapping[str, str], ending: str, most: int, generator: np.random.Generator
) -> tuple[dict[str, str], str | None]:
    """One to `most` of the facts and the ending, which counts as one; each as likely."""
    names: list[str | None] = [*facts, None]
    count = min(int(generator.integers(1, most + 1)), len(names))
    drawn = {names[int(i)] for i in generator.choice(len(names), size=count, replace=False)}
    stated = {name: value for name, value in facts.items() if name in drawn}
    return stated, ending if None in drawn else None


def write(facts: Mapping[str, str], ending: str | None, generator: np.random.Generator) -> str:
    """Explanation text for `facts` (attribute to value) and the last words of the text, if any."""
    sentences = [_choose(IDENTITY, facts, generator)]
    predicates = [_choose(group, facts, generator) for group in PREDICATES]
    stated = [predicate for predicate in predicates if predicate]
    for index in range(0, len(stated), 2):
        sentences.append(f"{_subject(facts)} {' and '.join(stated[index : index + 2])}.")
    sentences += [_choose(group, facts, generator) for group in (SETTING, CALENDAR)]
    if ending is not None:
        sentences.append(pick(generator, wordings_of_ending(ending)).format(ending=ending))
    return " ".join(sentence for sentence in sentences if sentence)


def wordings_of_ending(ending: str) -> tuple[str, ...]:
    """The wordings that state this ending."""
    return {UNKNOWN_WORD: ENDING_UNKNOWN, SENTENCE_END: ENDING_SENTENCE}.get(ending, ENDING)


def teacher_words(num_attributes: int = FEWEST_ATTRIBUTES) -> list[str]:
    """Every word an explanation can contain besides the words of the story, sorted."""
    templates = [*IDENTITY, *SETTING, *CALENDAR, *SUBJECTS, "and"]
    templates += [*ENDING, *ENDING_SENTENCE, *ENDING_UNKNOWN]
    templates += [template for group in PREDICATES for template in group]
    stated = " ".join(SLOT_PATTERN.sub(" ", t) for t in usable(templates, num_attributes))
    return sorted(set(split_words(stated)))


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
