"""Rows brought to a norm in float32, and what is clamped."""

from __future__ import annotations

import pytest
import torch

from gloss_kernels import scale_to_norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_any_type_are_rescaled_in_float32(dtype: torch.dtype) -> None:
    activations = torch.randn(4, 65, generator=torch.Generator().manual_seed(7)).to(dtype) * 200
    out = scale_to_norm(activations, 150.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=-1), torch.full((4,), 150.0), rtol=1e-6, atol=0)
    cosine = torch.nn.functional.cosine_similarity(out.double(), activations.double(), dim=-1)
    torch.testing.assert_close(cosine, torch.ones(4).double(), rtol=0, atol=1e-12)


def test_the_norm_is_clamped_and_zero_stays_zero() -> None:
    tiny = torch.zeros(2, 5)
    tiny[1, 2] = 1e-15
    out = scale_to_norm(tiny, 30.0)
    assert torch.equal(out[0], torch.zeros(5))
    # Below the clamp a row is multiplied by norm / 1e-12, not brought to the norm.
    torch.testing.assert_close(out[1, 2].item(), 0.03, rtol=1e-6, atol=0)
    assert scale_to_norm(torch.empty(0, 5), 1.0).shape == (0, 5)
