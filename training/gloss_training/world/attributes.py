"""The facts a story of the tiny world can hold, and the words that name them.

Only the closed sets of values and their small grammatical properties live here. How stories use
them is templates.py's part, how explanations state them is grammar.py's. A world has the first so
many attributes; none has a value of another, but for the names of hero and friend.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

HE_NAMES: Final = ("Ben", "Tom", "Max", "Leo", "Sam", "Jack", "Hugo", "Paul")
SHE_NAMES: Final = ("Ada", "Mia", "Eva", "Lily", "Rose", "Anna", "Clara", "Ruth")
NAMES: Final = HE_NAMES + SHE_NAMES

ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "hero": NAMES,
        "job": (
            "baker",
            "sailor",
            "painter",
            "doctor",
            "teacher",
            "farmer",
            "gardener",
            "singer",
            "hunter",
            "tailor",
            "pilot",
            "miller",
        ),
        "place": (
            "garden",
            "forest",
            "harbor",
            "market",
            "castle",
            "library",
            "school",
            "village",
            "meadow",
            "kitchen",
            "museum",
            "park",
        ),
        "thing": (
            "kite",
            "lamp",
            "key",
            "drum",
            "book",
            "ring",
            "map",
            "boat",
            "bell",
            "clock",
            "cup",
            "box",
            "hat",
            "coin",
        ),
        "color": ("red", "blue", "green", "yellow", "white", "black", "brown", "golden", "silver"),
        "mood": ("happy", "sad", "angry", "tired", "proud", "calm", "hungry", "lonely", "curious"),
        "weather": ("sunny", "rainy", "windy", "cloudy", "snowy", "stormy", "foggy", "cold"),
        "friend": NAMES,
        "food": ("bread", "soup", "cheese", "cake", "honey", "rice", "fish", "pie", "toast"),
        "time": ("dawn", "morning", "noon", "afternoon", "dusk", "evening", "night", "midnight"),
        "drink": ("tea", "milk", "coffee", "cocoa", "juice", "water", "cider", "lemonade"),
        "garment": ("coat", "scarf", "cloak", "jacket", "sweater", "shawl", "vest", "robe", "cape"),
        "animal": ("cat", "horse", "goat", "rabbit", "parrot", "pony", "duck", "sheep", "hamster"),
        "instrument": ("violin", "flute", "trumpet", "piano", "guitar", "harp", "cello", "banjo"),
        "vehicle": ("bicycle", "train", "wagon", "sled", "carriage", "bus", "canoe", "ferry"),
        "month": (
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ),
    }
)
FEWEST_ATTRIBUTES: Final = 10
"""Of the tiny world: no world has fewer."""

TIME_PHRASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        value: f"in the {value}" if value in {"morning", "afternoon", "evening"} else f"at {value}"
        for value in ATTRIBUTES["time"]
    }
)


def attributes_of(num_attributes: int) -> Mapping[str, tuple[str, ...]]:
    """The attributes of a world, and their values: the first so many."""
    return dict(tuple(ATTRIBUTES.items())[:num_attributes])


def is_male(name: str) -> bool:
    """Whether pronouns for `name` are he/him/his. ValueError for a word that is no name."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is no name of the tiny world; names: {', '.join(NAMES)}")
    return name in HE_NAMES


def value_index(attribute: str, value: str) -> int:
    """Class of `value` in the state head: 0 means unknown, values count from 1."""
    return ATTRIBUTES[attribute].index(value) + 1
