"""Figures of the training activations that every later stage needs, made row by row.

With rows scaled to norm sqrt(d) their squares have mean 1, so the strict baseline, the variance
about the un-normalised mean m, is 1 - mean(m^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gloss_training.settings import PromptSettings


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of raw training activations.

    Attributes:
        injection_scale: L2 norm of an injected activation.
        fve_baseline: the strict one.
        norm_median: usual L2 norm.
    """

    injection_scale: float
    fve_baseline: float
    norm_median: float


@dataclass
class RunningStatistics:
    """Sums over activations, in float64."""

    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    norms: list[np.ndarray] = field(default_factory=list)

    def add(self, activations: np.ndarray) -> None:
        """Takes [n, d] rows, none of them zero."""
        if not len(activations):
            return
        rows = activations.astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)
        scaled = (rows * (math.sqrt(rows.shape[1]) / norms)[:, None]).sum(0)
        self.total = scaled if not self.count else self.total + scaled
        self.count += len(rows)
        self.norms.append(norms.astype(np.float32))

    def result(self, prompt: PromptSettings) -> Statistics:
        """Of everything taken; there is some.

        The injected norm is a multiple of the usual one where the configuration names none, so
        that the AV, which starts as the target, meets a residual stream of a length it knows.
        """
        median = float(np.median(np.concatenate(self.norms)))
        mean = self.total / self.count
        return Statistics(
            injection_scale=prompt.injection_scale or prompt.injection_factor * median,
            fve_baseline=float(1.0 - np.square(mean).mean()),
            norm_median=median,
        )
