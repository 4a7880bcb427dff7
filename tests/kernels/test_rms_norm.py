"""RMS norm, reference and kernel, against float64: offsets, residuals, strides, rounding, fp8."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, FP8_MAX
from support.backends import BACKEND_DTYPES, BACKENDS, ON_GPU, REFERENCE, TRITON, Backend

# One rounding to the output's type, half a unit in the last place, after float32 arithmetic.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1.01 * 2.0**-8, torch.float16: 1.01 * 2.0**-11}
# e4m3 has 3 bits of significand, and below 2^-6 steps of 2^-9; 1e-5 for the scale's own rounding.
FP8_HALF_STEP, FP8_LEAST_HALF_STEP = 2.0**-4 + 1e-5, 2.0**-10


def _drawn(*shape: int, seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def _exact(rows: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    rows, weight = rows.double().cpu(), weight.double().cpu()
    return rows / (rows.square().mean(-1, keepdim=True) + eps).sqrt() * (offset + weight)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 129), (2, 3, 40), (0, 16)])
def test_rows_are_normalised(
    backend: Backend, dtype: torch.dtype, offset: float, shape: tuple[int, ...]
) -> None:
    rows = _drawn(*shape, seed=len(shape) + shape[-1], dtype=dtype, scale=3).to(backend.device)
    weight = (_drawn(shape[-1], seed=1, dtype=torch.float32, scale=0.3) + 1 - offset).to(rows)
    before = rows.clone()
    out = backend.ops.rms_norm(rows, weight, 1e-5, offset=offset)
    assert out.dtype == dtype and out.shape == shape
    assert torch.equal(rows, before), "the input is not the output"
    expected = _exact(rows, weight, 1e-5, offset)
    torch.testing.assert_close(out.double().cpu(), expected, rtol=TOLERANCES[dtype], atol=1e-7)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_the_residual_takes_the_sum_in_place(
    backend: Backend, dtype: torch.dtype, offset: float
) -> None:
    rows = _drawn(4, 33, seed=3, dtype=dtype).to(backend.device)
    residual = _drawn(4, 33, seed=4, dtype=dtype, scale=5).to(backend.device)
    weight = _drawn(33, seed=5, dtype=dtype).to(backend.device)
    total, storage = residual + rows, residual.data_ptr()
    out = backend.ops.rms_norm(rows, weight, 1e-6, offset=offset, residual=residual)
    assert residual.data_ptr() == storage and torch.equal(residual, total)
    assert out.data_ptr() != storage
    expected = _exact(total, weight, 1e-6, offset)
    torch.testing.assert_close(out.double().cpu(), expected, rtol=TOLERANCES[dtype], atol=1e-7)


@pytest.mark.parametrize("backend", [REFERENCE, TRITON] if ON_GPU else [REFERENCE], ids=str)
def test_gemma_weights_near_zero_are_not_rounded_before_the_offset(backend: Backend) -> None:
    # 1 + 2^-9 is no bfloat16: adding the offset in 16 bits would lose the weight.
    rows = torch.ones(1, 8, dtype=torch.bfloat16, device=backend.device) * 127
    weight = torch.full_like(rows[0], 2.0**-8 * 1.5)
    fine = backend.ops.rms_norm(rows.float(), weight.float(), 0.0, offset=1.0)
    out = backend.ops.rms_norm(rows, weight, 0.0, offset=1.0)
    assert torch.equal(out, fine.to(torch.bfloat16))
    torch.testing.assert_close(fine, torch.full_like(fine, 1 + 2.0**-8 * 1.5))


@pytest.mark.parametrize("backend", BACKENDS)
def test_epsilon_counts_for_small_rows(backend: Backend) -> None:
    rows = torch.full((1, 4), 1e-3, device=backend.device)
    ones = torch.ones(4, device=backend.device)
    out = backend.ops.rms_norm(rows, ones, 1e-6)
    torch.testing.assert_close(out, torch.full_like(rows, 0.5**0.5))
    assert not backend.ops.rms_norm(rows * 0, ones, 1e-6).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_wider_tensor(backend: Backend) -> None:
    ops, weight = backend.ops, torch.linspace(0.5, 2, 20, device=backend.device)
    wide = _drawn(6, 5, 20, seed=0, dtype=torch.float32).to(backend.device)
    for slices in (wide[:, 1:4], wide[:, 2], wide[1:4]):
        assert torch.equal(
            ops.rms_norm(slices, weight, 1e-6), ops.rms_norm(slices.contiguous(), weight, 1e-6)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_poisoned_row_stays_alone(backend: Backend) -> None:
    rows = _drawn(3, 9, seed=1, dtype=torch.float32).to(backend.device)
    ones = torch.ones(9, device=backend.device)
    clean = backend.ops.rms_norm(rows, ones, 1e-6)
    rows[1, 4] = torch.nan
    out = backend.ops.rms_norm(rows, ones, 1e-6)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (3, 129), (2, 3, 40), (0, 16)])
def test_fp8_rows_have_their_own_scales(
    backend: Backend, dtype: torch.dtype, with_residual: bool, shape: tuple[int, ...]
) -> None:
    rows = _drawn(*shape, seed=7, dtype=dtype).to(backend.device)
    rows[1:] *= 100
    weight = _drawn(shape[-1], seed=8, dtype=dtype).to(backend.device)
    residual = torch.ones_like(rows) if with_residual else None
    total = rows if residual is None else rows + residual
    out = backend.ops.rms_norm_fp8(rows, weight, 1e-6, offset=1.0, residual=residual)
    assert out.values.dtype == FP8_DTYPE and out.values.shape == shape
    assert out.scales.dtype == torch.float32 and out.scales.shape == (*shape[:-1], 1)
    if residual is not None:
        assert torch.equal(residual, total)
    exact = _exact(total, weight, 1e-6, 1.0)
    if exact.numel():
        largest = exact.abs().amax(-1, keepdim=True)
        torch.testing.assert_close(
            out.scales.cpu().double(), largest / FP8_MAX, rtol=1e-5, atol=1e-12
        )
        error = (out.dequantised().cpu().double() - exact).abs()
        least = largest / FP8_MAX * FP8_LEAST_HALF_STEP
        assert (error <= torch.maximum(exact.abs() * FP8_HALF_STEP, least * 1.001)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp8_of_a_row_of_zeros(backend: Backend) -> None:
    rows = torch.zeros(2, 8, device=backend.device)
    out = backend.ops.rms_norm_fp8(rows, torch.ones(8, device=backend.device), 1e-6)
    assert not out.dequantised().any() and (out.scales > 0).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy, in the interpreter
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_fp8_of_a_poisoned_row_stays_poisoned_and_alone(backend: Backend, poison: float) -> None:
    rows = _drawn(3, 9, seed=1, dtype=torch.float32).to(backend.device)
    ones = torch.ones(9, device=backend.device)
    clean = backend.ops.rms_norm_fp8(rows, ones, 1e-6).dequantised()
    rows[1, 4] = poison
    out = backend.ops.rms_norm_fp8(rows, ones, 1e-6).dequantised()
    assert not out[1].isfinite().any()
    assert torch.equal(out[[0, 2]], clean[[0, 2]])
