"""Stories of the tiny world, and which facts each prefix of a story has revealed.

A story is a list of word tokens with its mentions: the token positions at which an attribute's
value stands. Deterministic in the generator passed in. Explanations are teacher.py's part.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from gloss_training.world.attributes import ATTRIBUTES, NAMES, TIME_PHRASES, is_male

WORD_PATTERN: Final = re.compile(r"\w+|[^\w\s]")
SLOT_PATTERN: Final = re.compile(r"\{(\w+)\}")

# {subject} is the pronoun, the name or "the baker"; {object} him/her; {possessive} his/her.
# A template is usable once the attributes it names belong to the story.
OPENINGS: Final = (
    "This is the story of {hero}.",
    "Once there was a {job} named {hero}.",
    "Once upon a time there was a {job} called {hero}.",
    "{hero} is a {job}.",
    "{hero} the {job} woke up {time_phrase}.",
    "It was a {weather} day when {hero} left home.",
    "One {weather} {time} {hero} went out.",
    "{hero} felt {mood} today.",
    "{hero} and {friend} are good friends.",
    "{hero} lives near the {place}.",
    "{hero} loves to eat {food}.",
    "{hero} always wanted a {thing}.",
)

# Before the opening of some stories: the scene, with the hero still to come.
SCENES: Final = (
    "It was a {weather} {time}.",
    "It is {time}.",
    "It is {weather} in the {place}.",
    "The {place} is quiet.",
    "It was {time} in the {place}.",
)

REVEALS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "job": (
            "{subject} works as a {job}.",
            "{subject} is a {job}.",
            "Everyone calls {object} the {job}.",
            "{subject} became a {job} long ago.",
        ),
        "place": (
            "{subject} is in the {place}.",
            "{subject} walks to the {place}.",
            "In the {place} it is quiet.",
            "{subject} waits in the old {place}.",
            "The {place} is full of people.",
        ),
        "thing": (
            "{subject} finds a {thing}.",
            "{subject} has a {thing}.",
            "There is a {thing} on the ground.",
            "{subject} carries a {color} {thing}.",
            "{subject} looks at a {color} {thing}.",
            "A {color} {thing} lies on the table.",
        ),
        "color": (
            "The {thing} is {color}.",
            "{subject} finds a {color} {thing}.",
            "{subject} paints the {thing} {color}.",
            "What a fine {color} {thing}!",
        ),
        "mood": (
            "{subject} is {mood}.",
            "{subject} feels {mood} today.",
            "{subject} looks very {mood}.",
            "This makes {object} {mood}.",
        ),
        "weather": (
            "It is {weather} outside.",
            "The day is {weather}.",
            "The weather is {weather}.",
            "It is a {weather} {time}.",
        ),
        "friend": (
            "{subject} meets {friend}.",
            "{friend} is {possessive} friend.",
            "{possessive_start} friend {friend} is there too.",
            "{subject} talks with {friend}.",
            "{subject} calls {friend} over.",
        ),
        "food": (
            "{subject} eats {food}.",
            "{subject} has some {food} for lunch.",
            "There is {food} to eat.",
            "{subject} buys {food}.",
            "It smells of {food}.",
        ),
        "time": (
            "It is {time}.",
            "It happens {time_phrase}.",
            "{subject} came here {time_phrase}.",
            "It is a {weather} {time}.",
        ),
    }
)

FILLERS: Final = (
    "Then {subject_low} stops.",
    "Nobody knows why.",
    "A bird sings.",
    "The wind is soft.",
    "{subject} smiles.",
    "Time goes by.",
    "{subject} thinks for a while.",
    "A dog runs past.",
    "What will happen next?",
    "{subject} says hello.",
)

REMINDERS: Final = (
    ("friend", "{friend} laughs."),
    ("friend", "{friend} and {hero} talk."),
    ("thing", "{subject} likes the {thing}."),
    ("thing", "{subject} looks at the {thing} again."),
    ("place", "{subject} likes the {place}."),
    ("food", "The {food} is good."),
    ("mood", "{subject} is still {mood}."),
)


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A word of a story that states a fact: it is revealed from token `position` on."""

    position: int
    attribute: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Story:
    """Word tokens of a story (one per token of the tokenizer) and the facts they state."""

    words: tuple[str, ...]
    mentions: tuple[Mention, ...]

    def revealed(self, position: int) -> dict[str, str]:
        """Facts stated by the words at or before `position`, in ATTRIBUTES order."""
        seen = {m.attribute: m.value for m in self.mentions if m.position <= position}
        return {name: seen[name] for name in ATTRIBUTES if name in seen}

    def without(self, positions: Iterable[int], replacement: str) -> "Story":
        """The story with some words replaced, their mentions gone."""
        dropped = frozenset(positions)
        words = tuple(replacement if i in dropped else w for i, w in enumerate(self.words))
        kept = tuple(m for m in self.mentions if m.position not in dropped)
        return Story(words=words, mentions=kept)


def split_words(text: str) -> list[str]:
    """Words and single punctuation marks of plain text: the tokenizer's own rule."""
    return WORD_PATTERN.findall(text)


def draw_facts(generator: np.random.Generator) -> dict[str, str]:
    """One value for every attribute; hero and friend differ."""
    facts = {name: pick(generator, values) for name, values in ATTRIBUTES.items()}
    facts["friend"] = pick(generator, [name for name in NAMES if name != facts["hero"]])
    return facts


def pick(generator: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, each as likely (generator.choice builds an array first: 10x slower)."""
    return options[int(generator.integers(len(options)))]


def make_story(generator: np.random.Generator, max_words: int) -> Story:
    """A story of whole sentences, at most `max_words` words, its facts told in random order."""
    facts = draw_facts(generator)
    words: list[str] = []
    mentions: list[Mention] = []
    known: set[str] = set()
    for template in _templates(generator, known):
        sentence = list(_fill(template, facts, known, generator))
        if len(words) + len(sentence) > max_words:
            break
        for word, attribute in sentence:
            if attribute is not None:
                mentions.append(Mention(position=len(words), attribute=attribute, value=word))
                known.add(attribute)
            words.append(word)
    return Story(words=tuple(words), mentions=tuple(mentions))


def world_words() -> list[str]:
    """Every word a story can contain, sorted, each once."""
    templates = [*SCENES, *OPENINGS, *FILLERS, *(t for _, t in REMINDERS)]
    templates += [t for group in REVEALS.values() for t in group]
    found = set(split_words(" ".join(SLOT_PATTERN.sub(" ", t) for t in templates)))
    found.update(w for values in ATTRIBUTES.values() for w in values)
    found.update(w for phrase in TIME_PHRASES.values() for w in phrase.split())
    found.update(("He", "She", "he", "she", "him", "her", "his", "His", "Her", "The", "the"))
    return sorted(found)


def _templates(generator: np.random.Generator, known: set[str]) -> Iterator[str]:
    """Sentence templates of one story: an opening, then reveals with fillers between them."""
    if generator.random() < 0.3:
        yield pick(generator, SCENES)
    yield pick(generator, OPENINGS)
    for index in generator.permutation(len(REVEALS)):
        attribute = tuple(REVEALS)[index]
        if attribute not in known:
            yield pick(generator, REVEALS[attribute])
        draw = generator.random()
        usable = [template for name, template in REMINDERS if name in known]
        if draw < 0.15:
            yield pick(generator, FILLERS)
        elif draw < 0.35 and usable:
            yield pick(generator, usable)
    for _ in range(4):
        yield pick(generator, FILLERS + tuple(template for _, template in REMINDERS))


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
