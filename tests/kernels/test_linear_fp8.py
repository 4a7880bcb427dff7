"""Rows into fp8 and their linear layer, reference and kernel, against float64 of what went in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, FP8_MAX, Fp8Rows, quantize_rows
from support.backends import BACKEND_DTYPES, BACKENDS, ON_GPU, REFERENCE, TRITON, Backend

# e4m3 has 3 bits of significand, and below 2^-6 steps of 2^-9; 1e-5 for the scale's own rounding.
HALF_STEP, LEAST_HALF_STEP = 2.0**-4 + 1e-5, 2.0**-10 * 1.001
# float32 sums; the tensor cores of a GPU cut each of a few partial sums to 13 bits.
ACCUMULATION = 2.0**-11 if ON_GPU else 2e-6
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8}
# Not every CUDA build gives float32 from row-wise scales.
LINEAR_DTYPES = [
    pytest.param(backend, dtype, id=f"{backend.name}-{str(dtype).removeprefix('torch.')}")
    for backend in (REFERENCE, TRITON)
    for dtype in ROUNDING
    if dtype == torch.bfloat16 or backend is REFERENCE or not ON_GPU
]
# Triton's interpreter computes with numpy, which warns where a GPU gives an infinity or NaN.
NUMPY_SPEAKS = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _check_rounding(out: Fp8Rows, rows: Tensor) -> None:
    assert out.values.dtype == FP8_DTYPE and out.values.shape == rows.shape
    assert out.scales.dtype == torch.float32 and out.scales.shape == (*rows.shape[:-1], 1)
    assert out.values.is_contiguous() and out.scales.is_contiguous()
    if rows.numel():
        exact = rows.double().cpu()
        scales = exact.abs().amax(-1, keepdim=True) / FP8_MAX
        torch.testing.assert_close(out.scales.double().cpu(), scales, rtol=1e-6, atol=1e-12)
        error = (out.dequantised().double().cpu() - exact).abs()
        assert (error <= torch.maximum(exact.abs() * HALF_STEP, scales * LEAST_HALF_STEP)).all()


def _dequantised_product(rows: Fp8Rows, weight: Fp8Rows) -> tuple[Tensor, Tensor]:
    """The product in float64, and that of the magnitudes: what rounding errors are shares of."""
    left = rows.values.double().cpu() * rows.scales.double().cpu()
    right = weight.values.double().cpu() * weight.scales.double().cpu()
    return left @ right.t(), left.abs() @ right.abs().t()


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 129), (2, 3, 40), (0, 16)])
def test_rows_are_rounded_to_the_nearest(
    backend: Backend, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    rows = _drawn(*shape, seed=shape[-1], dtype=dtype).to(backend.device)
    rows[1:] *= 300
    before = rows.clone()
    _check_rounding(backend.ops.quantize_fp8(rows), rows)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [16384, 20001])
@pytest.mark.parametrize("largest", [0, 9000, -1])
def test_wide_rows(backend: Backend, width: int, largest: int) -> None:
    rows = _drawn(width, 2, seed=2, dtype=torch.float16).to(backend.device).t()
    rows[1, largest] = -700.0
    _check_rounding(backend.ops.quantize_fp8(rows), rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_rows(backend: Backend) -> None:
    stored = _drawn(6, 5, 20, seed=3).to(backend.device)
    for rows in (
        stored[:, 2],
        stored[1].t(),
        stored[:, 1:4],
        stored[0, ::2, ::3],
        stored[2, :, 4:],
    ):
        got, same = (backend.ops.quantize_fp8(each) for each in (rows, rows.contiguous()))
        _check_rounding(got, rows)
        assert torch.equal(got.values.float(), same.values.float())
        assert torch.equal(got.scales, same.scales)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_zeros_and_of_almost_nothing(backend: Backend) -> None:
    rows = torch.zeros(3, 9, device=backend.device)
    rows[1, 4], rows[2, 5] = 1e-14, 1e-30
    out = backend.ops.quantize_fp8(rows)
    assert not out.dequantised()[[0, 2]].any() and (out.scales > 0).all()
    # Below a largest magnitude of 4.48e-10 the scale stays at its floor, and steps stay as large.
    assert (out.dequantised()[1] - rows[1]).abs().max() <= 1e-12 * LEAST_HALF_STEP


@NUMPY_SPEAKS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("width", [9, 20001])
def test_a_poisoned_row_stays_alone_and_is_seen(
    backend: Backend, poison: float, width: int
) -> None:
    rows = torch.ones(3, width, device=backend.device)
    rows[1, width - 3] = poison
    out = backend.ops.quantize_fp8(rows).dequantised()
    assert not out[1].isfinite().any()
    torch.testing.assert_close(out[[0, 2]], rows[[0, 2]])


@pytest.mark.parametrize(("backend", "dtype"), LINEAR_DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 208, 48), (17, 48, 128), (0, 32, 16)])
def test_the_product_of_what_was_quantised(
    backend: Backend, dtype: torch.dtype, with_bias: bool, shape: tuple[int, int, int]
) -> None:
    num_rows, in_features, out_features = shape
    rows = quantize_rows(_drawn(num_rows, in_features, seed=4).to(backend.device) * 20)
    weight = quantize_rows(_drawn(out_features, in_features, seed=5).to(backend.device))
    bias = _drawn(out_features, seed=6, dtype=dtype).to(backend.device) * 50 if with_bias else None
    out = backend.ops.linear_fp8(rows, weight, bias, dtype=dtype)
    assert out.dtype == dtype and out.shape == (num_rows, out_features)
    exact, magnitudes = _dequantised_product(rows, weight)
    if bias is not None:
        exact, magnitudes = exact + bias.double().cpu(), magnitudes + bias.double().cpu().abs()
    error = (out.double().cpu() - exact).abs()
    assert (error <= exact.abs() * ROUNDING[dtype] + magnitudes * ACCUMULATION).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bias_is_added_before_the_rounding(backend: Backend) -> None:
    # 1001 is no bfloat16: rounded first, the sum would be 0 or 4.
    rows = quantize_rows(torch.ones(1, 16, device=backend.device))
    weight = quantize_rows(torch.full((16, 16), 1001 / 16, device=backend.device))
    bias = torch.full((16,), -1000.0, dtype=torch.bfloat16, device=backend.device)
    out = backend.ops.linear_fp8(rows, weight, bias, dtype=torch.bfloat16)
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=0.25 if ON_GPU else 0.01)


@pytest.mark.parametrize(("backend", "dtype"), LINEAR_DTYPES)
def test_the_error_is_what_e4m3_explains(backend: Backend, dtype: torch.dtype) -> None:
    ops = backend.ops
    rows = _drawn(33, 512, seed=7, dtype=torch.bfloat16).to(backend.device)
    weight = _drawn(64, 512, seed=8, dtype=torch.bfloat16).to(backend.device) * 0.02
    rows[5] *= 3e4
    rows[:, 100] *= 30
    weight[9] *= 1e3
    out = ops.linear_fp8(ops.quantize_fp8(rows), ops.quantize_fp8(weight), dtype=dtype)
    left, right = rows.double().cpu(), weight.double().cpu()
    exact, error = left @ right.t(), (out.double().cpu() - left @ right.t()).abs()
    # No element can be further off than all its roundings in one direction.
    steps = [
        torch.maximum(m.abs() * HALF_STEP, m.abs().amax(-1, keepdim=True) / FP8_MAX * 2.0**-9)
        for m in (left, right)
    ]
    magnitudes = left.abs() @ right.abs().t()
    most = (left.abs() + steps[0]) @ (right.abs() + steps[1]).t() - magnitudes
    assert (error <= most + exact.abs() * ROUNDING[dtype] + magnitudes * 1e-3).all()
    # Both operands' roundings are independent and uniform: 2.6% each, with sqrt(2) 3.7% of the root
    # of the products' squares. Rows and channels of outliers have scales of their own, so that no
    # other is worse for them.
    relative = error / (left.square() @ right.square().t()).sqrt()
    assert 0.025 < relative.square().mean().sqrt() < 0.045
    assert (relative.square().mean(0).sqrt() < 0.07).all()
    assert (relative.square().mean(1).sqrt() < 0.07).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_outlying_row_changes_no_other(backend: Backend) -> None:
    ops = backend.ops
    rows, weight = (_drawn(n, 64, seed=n).to(backend.device) for n in (7, 32))
    quantized = ops.quantize_fp8(weight)
    before = ops.linear_fp8(ops.quantize_fp8(rows), quantized, dtype=torch.bfloat16)
    rows[3] *= 1e5
    after = ops.linear_fp8(ops.quantize_fp8(rows), quantized, dtype=torch.bfloat16)
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(before[others], after[others])
    torch.testing.assert_close(after[3].float(), before[3].float() * 1e5, rtol=0.02, atol=2e4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_channels_of_zeros_leave_the_bias(backend: Backend) -> None:
    ops = backend.ops
    rows, weight = (_drawn(n, 32, seed=n).to(backend.device) for n in (3, 16))
    rows[1], weight[4] = 0, 0
    bias = _drawn(16, seed=9, dtype=torch.bfloat16).to(backend.device)
    quantized = ops.quantize_fp8(rows), ops.quantize_fp8(weight)
    out = ops.linear_fp8(*quantized, bias, dtype=torch.bfloat16)
    assert torch.equal(out[1], bias) and torch.equal(out[:, 4], bias[4].expand(3))
    assert not ops.linear_fp8(*quantized, dtype=torch.bfloat16)[1].any()


@pytest.mark.parametrize("widths", [(24, 16), (16, 24)])
def test_the_product_refuses_widths_it_cannot_take(widths: tuple[int, int]) -> None:
    rows, weight = (
        quantize_rows(torch.ones(n, widths[0], device=TRITON.device)) for n in (2, widths[1])
    )
    with pytest.raises(AssertionError):
        TRITON.ops.linear_fp8(rows, weight, dtype=torch.bfloat16)
