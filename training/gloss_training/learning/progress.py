"""What a stage tells while it goes: the interface alone, which needs no tensorboard.

`run/journal.py` writes it down; whoever trains without a run directory gives a `Silence`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One explanation to read.

    Attributes:
        text: what the explained model had read, its end at least.
        explanation: what the AV wrote.
        figures: what is known of it, such as its cosine.
    """

    text: str
    explanation: str
    figures: Mapping[str, float]


class Progress(Protocol):
    """Takes what a stage tells of each step."""

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        """Step `index`, from 0, is done.

        Args:
            index: the step.
            figures: what it was: equal runs, equal figures.
            clock: what it took; in seconds, per second, bytes.
        """

    def samples(self, index: int, samples: Sequence[Sample]) -> None:
        """What the AV wrote at step `index`."""


class Silence:
    """Tells nobody."""

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        """See `Progress`."""

    def samples(self, index: int, samples: Sequence[Sample]) -> None:
        """See `Progress`."""
