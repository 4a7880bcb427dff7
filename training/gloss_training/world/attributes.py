"""The facts a story of the tiny world can hold, and the words that name them.

Only the closed sets of values and their small grammatical properties live here. How stories use
them is world.py's part, how explanations state them is teacher.py's.
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
    }
)

TIME_PHRASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        value: f"in the {value}" if value in {"morning", "afternoon", "evening"} else f"at {value}"
        for value in ATTRIBUTES["time"]
    }
)


def is_male(name: str) -> bool:
    """Whether pronouns for `name` are he/him/his. ValueError for a word that is no name."""
    if name not in NAMES:
        raise ValueError(f"{name!r} is no name of the tiny world; names: {', '.join(NAMES)}")
    return name in HE_NAMES


def value_index(attribute: str, value: str) -> int:
    """Class of `value` in the state head: 0 means unknown, values count from 1."""
    return ATTRIBUTES[attribute].index(value) + 1
