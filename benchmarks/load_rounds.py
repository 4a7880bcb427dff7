"""Several rounds over the same rates, and the median of each figure over them.

A machine that others share gives some minutes more than others. Rates that are measured once, one
after the other, then differ by when they were measured. So each round visits all of them in an
order of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any


def round_order(fractions: Sequence[float], number: int, seed: int) -> list[float]:
    """The order in which a round visits the rates: the first from low to high, so that a server is
    not met for the first time by more than it can do; others at random."""
    ordered = sorted(fractions)
    if number:
        random.Random(f"{seed}.{number}").shuffle(ordered)
    return ordered


def median_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One rate's rows of all rounds as one.

    Figures are medians, of those rounds that have them. `reasons` and `calls` are of all rounds
    together, `valid` is when all are, and `goodput_low` and `goodput_high` are its extremes.
    """
    names = {name: None for row in rows for name in row}
    merged: dict[str, Any] = {name: _median([row.get(name) for row in rows]) for name in names}
    merged.pop("round", None)
    merged["calls"] = sum(row["calls"] for row in rows)
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(row["reasons"])
    merged["reasons"] = dict(reasons)
    merged["valid"] = all(row["valid"] for row in rows)
    goodputs = [row["goodput"] for row in rows]
    return merged | {"goodput_low": min(goodputs), "goodput_high": max(goodputs)}


def _median(values: Sequence[Any]) -> float | None:
    figures = [value for value in values if isinstance(value, int | float)]
    return median(figures) if figures else None
