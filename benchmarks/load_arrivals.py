"""When calls are due and which they are: Poisson arrivals and a mix of RPCs, both from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def poisson_arrivals(rate: float, rng: np.random.Generator) -> Iterator[float]:
    """Seconds from the start to each arrival of a Poisson process, without end.

    Gaps are exponential with mean 1 / rate. Several sources at once are a Poisson process again,
    with the sum of their rates.

    Args:
        rate: arrivals a second, above 0.
    """
    at = 0.0
    while True:
        at += float(rng.exponential(1.0 / rate))
        yield at


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Which share of the calls each RPC is.

    Attributes:
        names: the RPCs; shares: of all calls, together 1.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]

    @classmethod
    def parse(cls, text: str, known: tuple[str, ...]) -> Mix:
        """Read `Verbalize=3,StreamVerbalize=1`; a name alone weighs 1.

        Raises:
            ValueError: a name that is not known, or a weight that is no number above 0.
        """
        weights: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, weight = part.partition("=")
            if name not in known:
                raise ValueError(f"--mix: got {name!r}, expected some of {', '.join(known)}")
            try:
                weights[name] = float(weight or 1)
            except ValueError:
                weights[name] = 0.0
            if not 0 < weights[name] < float("inf"):
                raise ValueError(f"--mix: got {part!r}, expected NAME=WEIGHT with a number above 0")
        if not weights:
            raise ValueError("--mix: got none, expected NAME=WEIGHT,.. of RPCs")
        total = sum(weights.values())
        return cls(
            names=tuple(weights), shares=tuple(weight / total for weight in weights.values())
        )

    def draw(self, rng: np.random.Generator) -> str:
        """The next call's RPC."""
        return self.names[int(rng.choice(len(self.names), p=self.shares))]
