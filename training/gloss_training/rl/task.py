"""What RL is done on: activations, how the AR reads, and who judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from gloss_training.rl.rollout import Rollout


@dataclass(frozen=True, kw_only=True)
class RlTask:
    """One pair's rows and readers.

    Attributes:
        activations: [num_rows, d_model] float32, raw.
        texts: what the target had read at each row, to show beside an explanation.
        injection_scale: norm of an activation in the AV's prompt.
        fve_baseline: strict, of activations like these.
        encode: explanations -> the AR's ids [n, t], padded on the right, and lengths [n].
        judge: scores [n] of a rollout's explanations, 0 to 1, NaN where there is none.
    """

    activations: Tensor
    texts: Sequence[str]
    injection_scale: float
    fve_baseline: float
    encode: Callable[[Sequence[str]], tuple[Tensor, Tensor]]
    judge: Callable[[Rollout], Tensor] | None = None
