"""The gate of the MLP against its formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from gloss_kernels.reference.gated_activation import gated_activation

FORMULAS = {
    "silu": lambda g: g / (1 + (-g).exp()),
    "gelu_tanh": lambda g: (
        0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
    ),
}
# 16-bit types round twice, after the gate and after the product.
TOLERANCES = {
    torch.float32: (2e-6, 1e-6),
    torch.bfloat16: (2.0**-7, 1e-3),
    torch.float16: (2.0**-9, 1e-3),
}


@pytest.mark.parametrize("activation", FORMULAS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(1, 2), (5, 14), (3, 258), (0, 8)])
def test_formula(activation: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(shape[1])
    gate_up = (torch.randn(shape, generator=generator) * 4).to(dtype)
    before = gate_up.clone()
    out = gated_activation(gate_up, activation)
    gate, up = gate_up.double().chunk(2, dim=-1)
    rtol, atol = TOLERANCES[dtype]
    assert out.dtype == dtype and out.shape == (shape[0], shape[1] // 2)
    torch.testing.assert_close(out.double(), FORMULAS[activation](gate) * up, rtol=rtol, atol=atol)
    assert torch.equal(gate_up, before), "the input was written to"


@pytest.mark.parametrize("activation", FORMULAS)
def test_the_gate_is_the_first_half(activation: str) -> None:
    gate_up = torch.tensor([[0.0, -30.0, 30.0, 7.0, 8.0, 9.0]])
    out = gated_activation(gate_up, activation)
    torch.testing.assert_close(out, torch.tensor([[0.0, 0.0, 270.0]]), rtol=1e-6, atol=1e-9)


def test_strided_rows() -> None:
    wide = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0))
    rows = wide[:, 1]
    assert not rows.is_contiguous()
    assert torch.equal(gated_activation(rows, "silu"), gated_activation(rows.clone(), "silu"))


def test_the_two_formulas_differ() -> None:
    gate_up = torch.tensor([[1.0, 1.0]])
    silu = gated_activation(gate_up, "silu").item()
    assert abs(silu - gated_activation(gate_up, "gelu_tanh").item()) > 0.1


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'relu', expected 'silu' or 'gelu_tanh'"):
        gated_activation(torch.zeros(1, 2), "relu")
