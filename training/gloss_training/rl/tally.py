"""Means over what many micro batches and ranks saw."""

from __future__ import annotations

import math

import torch

from gloss_training.models.sharding import Ranks


class Tally:
    """Sums and counts by name; a name's mean is over everything that was added to it."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, name: str, total: float, count: float) -> None:
        """A sum over `count` things."""
        found = self._sums.setdefault(name, [0.0, 0.0])
        found[0] += total
        found[1] += count

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Over all ranks, which must have added the same names in the same order.

        A mean of nothing, or one that is not finite, is left out.
        """
        if not self._sums:
            return {}
        values = ranks.sum(torch.tensor(list(self._sums.values()), dtype=torch.float64))
        found = {
            name: total / count
            for name, (total, count) in zip(self._sums, values.tolist(), strict=True)
            if count
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}
