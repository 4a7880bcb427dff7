"""The stories that ship with the embedded pair: held out of its training, with what they tell.

They are read back from the shipped activations: each row has the story up to its token, so the
longest is the story, and the facts that were told by then.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_COLUMNS = ["doc_id", "position", "text", "facts"]


@dataclass(frozen=True, kw_only=True)
class Story:
    """A story.

    Attributes:
        text: all of it that is shipped.
        positions: ascending, those that `facts` are known at.
        facts: what had been told by each of them.
    """

    text: str
    positions: tuple[int, ...]
    facts: tuple[frozenset[str], ...]

    def told(self, position: int, text: str) -> frozenset[str]:
        """The facts told up to a position.

        Args:
            position: of a token.
            text: the story up to it. Between two known positions it decides what of the later
                one's facts was told already: facts are told by their word.
        """
        later = bisect_right(self.positions, position)
        before = self.facts[later - 1] if later else frozenset()
        if later == len(self.positions):
            return before
        words = set(re.findall(r"\w+", text))
        return before | {fact for fact in self.facts[later] if fact in words}


def read_stories(activations: Path) -> list[Story]:
    """All stories, in the order of the file."""
    rows = pq.read_table(activations, columns=_COLUMNS).to_pylist()
    by_story: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_story.setdefault(row["doc_id"], []).append(row)
    return [_story(rows) for rows in by_story.values()]


def _story(rows: list[dict[str, Any]]) -> Story:
    in_order = sorted(rows, key=lambda row: int(row["position"]))
    told = [json.loads(row["facts"]).values() for row in in_order]
    return Story(
        text=in_order[-1]["text"],
        positions=tuple(row["position"] for row in in_order),
        facts=tuple(frozenset(map(str, facts)) for facts in told),
    )
