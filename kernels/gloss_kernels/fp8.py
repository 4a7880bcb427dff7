"""Rows in 8-bit floating point, each with a scale of its own.

x_ij ~ values_ij * scales_i
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FP8_DTYPE = torch.float8_e4m3fn
FP8_MAX = 448.0
"""Largest value of e4m3; the cast of a larger one would be NaN."""

LEAST_SCALE = 1e-12
"""Floor of a scale: a row of zeros stays zero."""


@dataclass(frozen=True, kw_only=True)
class Fp8Rows:
    """Quantised rows.

    Attributes:
        values: [..., n] float8_e4m3fn.
        scales: [..., 1] float32.
    """

    values: Tensor
    scales: Tensor

    def dequantised(self) -> Tensor:
        """[..., n] float32."""
        return self.values.float() * self.scales


def quantize_rows(rows: Tensor) -> Fp8Rows:
    """Each row divided by its largest magnitude over 448, rounded to the nearest.

    Args:
        rows: [..., n] floating point.
    """
    rows = rows.float()
    scales = (rows.abs().amax(dim=-1, keepdim=True) / FP8_MAX).clamp_min(LEAST_SCALE)
    values = (rows / scales).clamp(-FP8_MAX, FP8_MAX).to(FP8_DTYPE)
    return Fp8Rows(values=values, scales=scales)
