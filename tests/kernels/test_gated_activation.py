"""The gate of the MLP, reference and kernel, against its formulas in float64: rounding, fp8."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gloss_kernels.fp8 import FP8_DTYPE, FP8_MAX, LEAST_SCALE
from support.backends import BACKEND_DTYPES, BACKENDS, Backend

FORMULAS = {
    "silu": lambda g: g / (1 + (-g).exp()),
    "gelu_tanh": lambda g: (
        0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    ),
}
# The reference rounds twice in 16 bits, after the gate and after the product; the kernel once.
# In float32 1 + tanh(t) of the reference loses 2^-24 next to 1, which gates and ups of 8 multiply.
TOLERANCES = {
    torch.float32: (2e-6, 4e-6),
    torch.bfloat16: (2.0**-7, 1e-3),
    torch.float16: (2.0**-9, 1e-3),
}


# e4m3 has 3 bits of significand, and below 2^-6 steps of 2^-9; 1e-5 for the arithmetic before it.
FP8_HALF_STEP, FP8_LEAST_HALF_STEP = 2.0**-4 + 1e-5, 2.0**-10 + 1e-6

SHAPES = [(1, 2), (5, 14), (3, 258), (2, 2 * 2100), (0, 8)]
"""Widths of 1, 7, 129, more than two blocks of columns, and no rows."""


def _drawn(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(shape[1])
    return (torch.randn(shape, generator=generator) * 4).to(dtype)


def _exact(gate_up: Tensor, activation: str) -> Tensor:
    gate, up = gate_up.double().cpu().chunk(2, dim=-1)
    return FORMULAS[activation](gate) * up


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_formula(
    backend: Backend, activation: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    gate_up = _drawn(shape, dtype).to(backend.device)
    before = gate_up.clone()
    out = backend.ops.gated_activation(gate_up, activation)
    rtol, atol = TOLERANCES[dtype]
    assert out.dtype == dtype and out.shape == (shape[0], shape[1] // 2)
    expected = _exact(gate_up, activation)
    torch.testing.assert_close(out.double().cpu(), expected, rtol=rtol, atol=atol)
    assert torch.equal(gate_up, before), "the input was written to"


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_rows_have_their_own_scales(
    backend: Backend, activation: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    gate_up = _drawn(shape, dtype).to(backend.device)
    gate_up[1:, shape[1] // 2 :] *= 100
    out = backend.ops.gated_activation_fp8(gate_up, activation)
    assert out.values.dtype == FP8_DTYPE and out.values.shape == (shape[0], shape[1] // 2)
    assert out.scales.dtype == torch.float32 and out.scales.shape == (shape[0], 1)
    exact = _exact(gate_up, activation)
    if exact.numel():
        largest = exact.abs().amax(-1, keepdim=True)
        scales = out.scales.double().cpu()
        torch.testing.assert_close(scales, largest / FP8_MAX, rtol=1e-5, atol=1e-12)
        error = (out.dequantised().double().cpu() - exact).abs()
        least = largest / FP8_MAX * FP8_LEAST_HALF_STEP
        assert (error <= torch.maximum(exact.abs() * FP8_HALF_STEP, least)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_fp8_is_rounded_once(backend: Backend) -> None:
    # 41 * 949/1024 is just below 38, which is what 16 bits would make of it; over the scale of 32
    # that is 1.1875, a tie of e4m3 that goes up.
    rows = torch.tensor([[32.0, 41.0, 448.0, 949 / 1024]]).half().to(backend.device)
    out = backend.ops.gated_activation_fp8(rows, "silu")
    assert out.scales.item() == 32.0
    assert out.values.float().tolist() == [[448.0, 1.125]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", FORMULAS)
def test_fp8_of_a_row_of_zeros(backend: Backend, activation: str) -> None:
    out = backend.ops.gated_activation_fp8(torch.zeros(2, 12, device=backend.device), activation)
    assert not out.dequantised().any()
    assert torch.equal(out.scales, torch.full_like(out.scales, LEAST_SCALE))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", FORMULAS)
def test_the_gate_is_the_first_half(backend: Backend, activation: str) -> None:
    gate_up = torch.tensor([[0.0, -30.0, 30.0, 7.0, 8.0, 9.0]], device=backend.device)
    expected = torch.tensor([[0.0, 0.0, 270.0]], device=backend.device)
    out = backend.ops.gated_activation(gate_up, activation)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-9)
    quantised = backend.ops.gated_activation_fp8(gate_up, activation).dequantised()
    torch.testing.assert_close(quantised, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_large_gates_are_the_identity_or_zero(
    backend: Backend, activation: str, dtype: torch.dtype
) -> None:
    gate = torch.tensor([1e4, -1e4, 100.0, -100.0, 65000.0, -65000.0], dtype=dtype)
    rows = torch.cat((gate, torch.ones_like(gate))).unsqueeze(0).to(backend.device)
    expected = gate.clamp_min(0).float()
    out = backend.ops.gated_activation(rows, activation).float().cpu()
    torch.testing.assert_close(out[0], expected, rtol=1e-6, atol=1e-30)
    quantised = backend.ops.gated_activation_fp8(rows, activation).dequantised().cpu()
    least = 65000 / FP8_MAX * FP8_LEAST_HALF_STEP
    torch.testing.assert_close(quantised[0], expected, rtol=FP8_HALF_STEP, atol=least)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", [0, 3, 8])
def test_rows_of_a_wider_tensor(backend: Backend, start: int) -> None:
    wide = torch.randn(4, 40, generator=torch.Generator().manual_seed(0)).to(backend.device)
    rows, ops = wide[1:, start : start + 26], backend.ops
    assert not rows.is_contiguous()
    plain = ops.gated_activation(rows.contiguous(), "silu")
    assert torch.equal(ops.gated_activation(rows, "silu"), plain)
    strided = ops.gated_activation_fp8(rows, "silu")
    quantised = ops.gated_activation_fp8(rows.contiguous(), "silu")
    assert torch.equal(strided.scales, quantised.scales)
    assert torch.equal(strided.values.float(), quantised.values.float())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("poisoned", [2, 8, 11])
def test_a_poisoned_row_stays_alone(backend: Backend, activation: str, poisoned: int) -> None:
    rows, ops = _drawn((3, 18), torch.float32).to(backend.device), backend.ops
    clean, clean_fp8 = (
        ops.gated_activation(rows, activation),
        ops.gated_activation_fp8(rows, activation).dequantised(),
    )
    rows[1, poisoned] = torch.nan
    out = ops.gated_activation(rows, activation)
    hit = torch.zeros(3, 9, dtype=torch.bool, device=backend.device)
    hit[1, poisoned % 9] = True
    assert torch.equal(out.isnan(), hit)
    assert torch.equal(out[~hit], clean[~hit])
    quantised = ops.gated_activation_fp8(rows, activation)
    assert quantised.dequantised()[1].isnan().all(), "the row's scale shows it"
    assert torch.equal(quantised.dequantised()[[0, 2]], clean_fp8[[0, 2]])


def test_the_two_formulas_differ() -> None:
    gate_up = torch.tensor([[1.0, 1.0]])
    silu, gelu = (FORMULAS[name](gate_up[0, 0]) for name in ("silu", "gelu_tanh"))
    assert abs(silu - gelu) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_rows", [0, 1])
def test_another_name_is_refused(backend: Backend, num_rows: int) -> None:
    rows = torch.zeros(num_rows, 2, device=backend.device)
    for operation in (backend.ops.gated_activation, backend.ops.gated_activation_fp8):
        with pytest.raises(ValueError, match="got 'relu', expected 'silu' or 'gelu_tanh'"):
            operation(rows, "relu")
