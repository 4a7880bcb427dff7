"""The sentences that stories are made of, by what they tell.

Telling them is stories.py's part.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from gloss_training.world.attributes import ATTRIBUTES, attributes_of

SLOT_PATTERN: Final = re.compile(r"\{(\w+)\}")

# {subject} is the pronoun, the name or "the baker"; {object} him/her; {possessive} his/her.
# A template is usable in a world that has the attributes it names.
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
    "{hero} came home by {vehicle}.",
    "{hero} loves to play the {instrument}.",
    "{hero} and a {animal} are good friends.",
    "It was {month} when {hero} left home.",
)

# Before the opening of some stories: the scene, with the hero still to come.
SCENES: Final = (
    "It was a {weather} {time}.",
    "It is {time}.",
    "It is {weather} in the {place}.",
    "The {place} is quiet.",
    "It was {time} in the {place}.",
    "It was {month}.",
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
        "drink": (
            "{subject} drinks {drink}.",
            "{subject} asks for some {drink}.",
            "There is {drink} on the table.",
            "{subject} spills the {drink}.",
        ),
        "garment": (
            "{subject} wears a {garment}.",
            "{subject} puts on a {garment}.",
            "{possessive_start} {garment} is new.",
            "A {garment} keeps {object} warm.",
        ),
        "animal": (
            "{subject} has a {animal} at home.",
            "A {animal} follows {object}.",
            "{possessive_start} {animal} is never far.",
            "{subject} feeds a {animal}.",
        ),
        "instrument": (
            "{subject} plays the {instrument}.",
            "{subject} learns the {instrument}.",
            "Somebody hears {possessive} {instrument}.",
            "{subject} tunes a {instrument}.",
        ),
        "vehicle": (
            "{subject} travels by {vehicle}.",
            "{subject} came by {vehicle}.",
            "The {vehicle} was slow.",
            "{subject} waits for the {vehicle}.",
        ),
        "month": (
            "It is {month}.",
            "It happens in {month}.",
            "{subject} came here in {month}.",
            "This {month} is a long one.",
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
    ("drink", "The {drink} is still warm."),
    ("garment", "{subject} likes the {garment}."),
    ("animal", "The {animal} sleeps."),
    ("instrument", "{subject} plays the {instrument} again."),
    ("vehicle", "{subject} thinks of the {vehicle}."),
)


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The sentences of one world, as in the tables above."""

    scenes: tuple[str, ...]
    openings: tuple[str, ...]
    reveals: Mapping[str, tuple[str, ...]]
    fillers: tuple[str, ...]
    reminders: tuple[tuple[str, str], ...]

    def all(self) -> list[str]:
        """All of them, some more than once."""
        revealing = [template for group in self.reveals.values() for template in group]
        reminding = [template for _, template in self.reminders]
        return [*self.scenes, *self.openings, *self.fillers, *reminding, *revealing]


@cache
def templates_of(num_attributes: int) -> Templates:
    """Those that a world of so many attributes can fill."""
    return Templates(
        scenes=usable(SCENES, num_attributes),
        openings=usable(OPENINGS, num_attributes),
        reveals={
            name: usable(REVEALS[name], num_attributes)
            for name in REVEALS
            if name in attributes_of(num_attributes)
        },
        fillers=usable(FILLERS, num_attributes),
        reminders=tuple(each for each in REMINDERS if usable(each[1:], num_attributes)),
    )


def usable(templates: Iterable[str], num_attributes: int) -> tuple[str, ...]:
    """Of sentences with slots, those that name no attribute that such a world has not."""
    missing = ATTRIBUTES.keys() - attributes_of(num_attributes).keys()
    return tuple(each for each in templates if not missing & {*SLOT_PATTERN.findall(each)})
