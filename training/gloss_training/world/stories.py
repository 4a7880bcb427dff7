"""Stories of the tiny world, and which facts each prefix of a story has revealed.

A story is a list of words with its mentions: the places of words that state an attribute's value.
How a tokenizer cuts its words is not known here. Deterministic in the generator passed in.
Explanations are grammar.py's part.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import add
from typing import Final

import numpy as np

from gloss_training.world.attributes import (
    ATTRIBUTES,
    FEWEST_ATTRIBUTES,
    NAMES,
    TIME_PHRASES,
    attributes_of,
    is_male,
)
from gloss_training.world.templates import SLOT_PATTERN, Templates, templates_of

WORD_PATTERN: Final = re.compile(r"\w+|[^\w\s]")
UNKNOWN_WORD: Final = "[UNK]"
SENTENCE_MARKS: Final = (".", "?", "!")
_STORY_WORD: Final = re.compile(f"{re.escape(UNKNOWN_WORD)}|{WORD_PATTERN.pattern}")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A word of a story that states a fact: it is revealed from word `position` on."""

    position: int
    attribute: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """Words and marks of a story, and the facts they state.

    Attributes:
        words: each mark is one.
        mentions: of facts.
        is_spaced: whether a mark has a space before it, as if it were a word.
    """

    words: tuple[str, ...]
    mentions: tuple[Mention, ...]
    is_spaced: bool = True

    @property
    def text(self) -> str:
        """The words as they are written."""
        return "".join(gap + word for gap, word in zip(self._gaps, self.words, strict=True))

    def num_words_within(self, num_chars: int) -> int:
        """How many words are whole in the first so many characters of the text."""
        return bisect_right(self._ends, num_chars)

    def revealed_within(self, num_chars: int) -> dict[str, str]:
        """Facts that the first so many characters of the text state; part of a word states none."""
        return self.revealed(self.num_words_within(num_chars) - 1)

    def revealed(self, position: int) -> dict[str, str]:
        """Facts stated by the words at or before `position`, in ATTRIBUTES order."""
        seen = {m.attribute: m.value for m in self.mentions if m.position <= position}
        return {name: seen[name] for name in ATTRIBUTES if name in seen}

    @property
    def _gaps(self) -> list[str]:
        """What stands before each word."""
        joined = () if self.is_spaced else SENTENCE_MARKS
        return ["" if word in joined or not at else " " for at, word in enumerate(self.words)]

    @cached_property
    def _ends(self) -> list[int]:
        """How far into the text each word reaches."""
        return list(accumulate(map(len, map(add, self._gaps, self.words))))

    def without(self, positions: Iterable[int], replacement: str) -> "Story":
        """The story with some words replaced, their mentions gone."""
        dropped = frozenset(positions)
        words = tuple(replacement if i in dropped else w for i, w in enumerate(self.words))
        kept = tuple(m for m in self.mentions if m.position not in dropped)
        return replace(self, words=words, mentions=kept)


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks of plain text: the word tokenizer's own rule."""
    return WORD_PATTERN.findall(text)


def words_of(text: str) -> list[str]:
    """Words and marks of a story's beginning, whose last one may be a part of one."""
    return _STORY_WORD.findall(text)


def draw_facts(generator: np.random.Generator, num_attributes: int) -> dict[str, str]:
    """One value for every attribute; hero and friend differ."""
    attributes = attributes_of(num_attributes)
    facts = {name: pick(generator, values) for name, values in attributes.items()}
    facts["friend"] = pick(generator, [name for name in NAMES if name != facts["hero"]])
    return facts


def pick(generator: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, each as likely (generator.choice builds an array first: 10x slower)."""
    return options[int(generator.integers(len(options)))]


def make_story(
    generator: np.random.Generator, max_words: int, num_attributes: int = FEWEST_ATTRIBUTES
) -> Story:
    """A story of whole sentences, at most `max_words` words, its facts told in random order."""
    facts = draw_facts(generator, num_attributes)
    words: list[str] = []
    mentions: list[Mention] = []
    known: set[str] = set()
    for template in _told(templates_of(num_attributes), generator, known):
        sentence = list(_fill(template, facts, known, generator))
        if len(words) + len(sentence) > max_words:
            break
        for word, attribute in sentence:
            if attribute is not None:
                mentions.append(Mention(position=len(words), attribute=attribute, value=word))
                known.add(attribute)
            words.append(word)
    return Story(words=tuple(words), mentions=tuple(mentions))


def world_words(num_attributes: int = FEWEST_ATTRIBUTES) -> list[str]:
    """Every word a story can contain, sorted, each once."""
    templates = templates_of(num_attributes).all()
    found = set(split_words(" ".join(SLOT_PATTERN.sub(" ", t) for t in templates)))
    found.update(w for values in attributes_of(num_attributes).values() for w in values)
    found.update(w for phrase in TIME_PHRASES.values() for w in phrase.split())
    found.update(("He", "She", "he", "she", "him", "her", "his", "His", "Her", "The", "the"))
    return sorted(found)


def _told(templates: Templates, generator: np.random.Generator, known: set[str]) -> Iterator[str]:
    """Sentence templates of one story: an opening, then reveals with fillers between them."""
    reminders = templates.reminders
    if generator.random() < 0.3:
        yield pick(generator, templates.scenes)
    yield pick(generator, templates.openings)
    for index in generator.permutation(len(templates.reveals)):
        attribute = tuple(templates.reveals)[index]
        if attribute not in known:
            yield pick(generator, templates.reveals[attribute])
        draw = generator.random()
        fitting = [template for name, template in reminders if name in known]
        if draw < 0.15:
            yield pick(generator, templates.fillers)
        elif draw < 0.35 and fitting:
            yield pick(generator, fitting)
    for _ in range(4):
        yield pick(generator, templates.fillers + tuple(template for _, template in reminders))


def _fill(
    template: str, facts: Mapping[str, str], known: set[str], generator: np.random.Generator
) -> Iterator[tuple[str, str | None]]:
    """The words of one sentence, each with the attribute whose value it states, if any."""
    male = is_male(facts["hero"])
    forms = {
        "object": "him" if male else "her",
        "possessive": "his" if male else "her",
        "possessive_start": "His" if male else "Her",
        "subject_low": "he" if male else "she",
    }
    for piece in re.split(r"(\{\w+\})", template):
        slot = piece[1:-1] if piece.startswith("{") else None
        if slot is None or slot in forms:
            yield from ((w, None) for w in split_words(forms.get(slot or "", piece)))
        elif slot == "subject":
            yield from _subject(facts, known, generator)
        elif slot == "time_phrase":
            phrase = TIME_PHRASES[facts["time"]].split()
            yield from ((w, "time" if w == facts["time"] else None) for w in phrase)
        else:
            yield facts[slot], slot


def _subject(
    facts: Mapping[str, str], known: set[str], generator: np.random.Generator
) -> Iterator[tuple[str, str | None]]:
    """The hero as a pronoun (mostly), by name, or by a job that is already known."""
    draw = generator.random()
    if draw < 0.2:
        yield facts["hero"], "hero"
    elif draw < 0.3 and "job" in known:
        yield "The", None
        yield facts["job"], "job"
    else:
        yield ("He" if is_male(facts["hero"]) else "She"), None
