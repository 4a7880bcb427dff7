"""RMS norm against float64: offsets, residuals in place, 16-bit rounding, odd strides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels import rms_norm

# One rounding to the output's type, half a unit in the last place, after float32 arithmetic.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1.01 * 2.0**-8, torch.float16: 1.01 * 2.0**-11}


def _exact(rows: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    rows, weight = rows.double(), weight.double()
    return rows / (rows.square().mean(-1, keepdim=True) + eps).sqrt() * (offset + weight)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 129), (2, 3, 40), (0, 16)])
def test_rows_are_normalised(dtype: torch.dtype, offset: float, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    rows = (torch.randn(shape, generator=generator) * 3).to(dtype)
    weight = (torch.randn(shape[-1], generator=generator) * 0.3 + 1 - offset).to(dtype)
    before = rows.clone()
    out = rms_norm(rows, weight, 1e-5, offset=offset)
    assert out.dtype == dtype and out.shape == shape
    assert torch.equal(rows, before), "the input is not the output"
    expected = _exact(rows, weight, 1e-5, offset)
    torch.testing.assert_close(out.double(), expected, rtol=TOLERANCES[dtype], atol=1e-7)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_residual_takes_the_sum_in_place(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 33, generator=generator).to(dtype)
    residual = (torch.randn(4, 33, generator=generator) * 5).to(dtype)
    weight = torch.randn(33, generator=generator).to(dtype)
    total, storage = residual + rows, residual.data_ptr()
    out = rms_norm(rows, weight, 1e-6, offset=offset, residual=residual)
    assert residual.data_ptr() == storage and torch.equal(residual, total)
    assert out.data_ptr() != storage
    expected = _exact(total, weight, 1e-6, offset)
    torch.testing.assert_close(out.double(), expected, rtol=TOLERANCES[dtype], atol=1e-7)


def test_gemma_weights_near_zero_are_not_rounded_before_the_offset() -> None:
    # 1 + 2^-9 is no bfloat16: adding the offset in 16 bits would lose the weight.
    rows = torch.ones(1, 8, dtype=torch.bfloat16) * 127
    weight = torch.full((8,), 2.0**-8 * 1.5, dtype=torch.bfloat16)
    fine = rms_norm(rows.float(), weight.float(), 0.0, offset=1.0)
    assert torch.equal(rms_norm(rows, weight, 0.0, offset=1.0), fine.to(torch.bfloat16))
    assert torch.allclose(fine, torch.full((1, 8), 1 + 2.0**-8 * 1.5))


def test_epsilon_counts_for_small_rows() -> None:
    rows = torch.full((1, 4), 1e-3)
    out = rms_norm(rows, torch.ones(4), 1e-6)
    torch.testing.assert_close(out, torch.full((1, 4), 0.5**0.5))
    assert torch.equal(rms_norm(torch.zeros(1, 4), torch.ones(4), 1e-6), torch.zeros(1, 4))


def test_rows_of_a_wider_tensor() -> None:
    wide = torch.randn(6, 5, 20, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0.5, 2, 20)
    slices = wide[:, 1:4]
    assert not slices.is_contiguous()
    assert torch.equal(rms_norm(slices, weight, 1e-6), rms_norm(slices.contiguous(), weight, 1e-6))


def test_a_poisoned_row_stays_alone() -> None:
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(1))
    clean = rms_norm(rows, torch.ones(9), 1e-6)
    rows[1, 4] = torch.nan
    out = rms_norm(rows, torch.ones(9), 1e-6)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
