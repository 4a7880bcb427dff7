"""Means over what many micro batches and ranks saw."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gloss_training.models.sharding import Ranks


class Tally:
    """Sums and counts by name; a name's mean is over everything that was added to it.

    Sums may be tensors, on any device, which nobody waits for before the means are asked for.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float | Tensor, float]] = {}

    def add(self, name: str, total: float | Tensor, count: float) -> None:
        """A sum over `count` things; a tensor is a float64 scalar."""
        before, number = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = before + total, number + count

    def means(self, ranks: Ranks) -> dict[str, float]:
        """Over all ranks, which must have added the same names in the same order.

        A mean of nothing, or one that is not finite, is left out.
        """
        if not self._sums:
            return {}
        own = [(float(total), count) for total, count in self._sums.values()]
        values = ranks.sum(torch.tensor(own, dtype=torch.float64))
        found = {
            name: total / count
            for name, (total, count) in zip(self._sums, values.tolist(), strict=True)
            if count
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}
