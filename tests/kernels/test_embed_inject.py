"""The prefill buffer: embeddings with their scale, activations rescaled to a norm."""

from __future__ import annotations

import math

import pytest
import torch

from gloss_kernels import scale_to_norm
from gloss_kernels.reference.embed_inject import embed_inject


def _table(dtype: torch.dtype, vocab_size: int = 11, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(vocab_size, width, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_only_the_injected_rows_are_replaced(dtype: torch.dtype) -> None:
    table = _table(dtype)
    before = table.clone()
    ids = torch.tensor([3, 10, 0, 3, 9])
    activations = torch.randn(2, 7, generator=torch.Generator().manual_seed(1)) * 40
    out = embed_inject(
        table,
        ids,
        injected_rows=torch.tensor([4, 1]),
        activations=activations,
        injection_scale=12.5,
    )
    expected = activations.double() / activations.double().norm(dim=-1, keepdim=True) * 12.5
    assert out.dtype == dtype
    assert torch.equal(out[[0, 2, 3]], table[[3, 0, 3]])
    # One rounding to the table's type; float32 carries the norm and two products.
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}[dtype]
    torch.testing.assert_close(out[[4, 1]].double(), expected, rtol=tolerance, atol=1e-6)
    assert torch.equal(table, before), "the table was written to"


def test_gemmas_embedding_scale_is_rounded_to_the_tables_type() -> None:
    table = _table(torch.bfloat16, vocab_size=64)
    out = embed_inject(table, torch.arange(64), embed_scale=math.sqrt(3840))
    assert torch.equal(out, table * 62.0)
    exact = (table.float() * math.sqrt(3840)).to(torch.bfloat16)
    assert not torch.equal(table * 62.0, exact), "this table cannot tell the two roundings apart"
    fine = embed_inject(_table(torch.float32), torch.tensor([2]), embed_scale=math.sqrt(3840))
    torch.testing.assert_close(fine, _table(torch.float32)[[2]] * math.sqrt(3840))


def test_injected_rows_do_not_get_the_embedding_scale() -> None:
    activations = torch.tensor([[3.0, 4.0, 0, 0, 0, 0, 0]])
    out = embed_inject(
        _table(torch.float32),
        torch.tensor([1, 1]),
        embed_scale=61.97,
        injected_rows=torch.tensor([0]),
        activations=activations,
        injection_scale=10.0,
    )
    torch.testing.assert_close(out[0, :2], torch.tensor([6.0, 8.0]))
    torch.testing.assert_close(out[1], _table(torch.float32)[1] * 61.97)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_scale_beyond_half_precision(dtype: torch.dtype) -> None:
    # 80000 does not fit float16; in bfloat16 the rescaling happens in float32 and is cast last.
    width = 3840
    activations = torch.randn(3, width, generator=torch.Generator().manual_seed(2)) * 100
    table = torch.zeros(2, width, dtype=dtype)
    out = embed_inject(
        table,
        torch.tensor([0, 1, 0]),
        injected_rows=torch.arange(3),
        activations=activations,
        injection_scale=80000.0,
    )
    exact = activations.double() / activations.double().norm(dim=-1, keepdim=True) * 80000
    # The cast alone: half a unit in the last place of bfloat16; float32 sums 3840 squares.
    tolerance = 2.0**-8 * 1.001 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(out.double(), exact, rtol=tolerance, atol=0)


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


def test_a_poisoned_activation_stays_alone() -> None:
    activations = torch.ones(2, 7)
    activations[0, 3] = torch.inf
    out = embed_inject(
        _table(torch.float32),
        torch.tensor([1, 2, 3]),
        injected_rows=torch.tensor([0, 2]),
        activations=activations,
    )
    assert not out[0].isfinite().all()
    assert out[1:].isfinite().all()


def test_strided_activations() -> None:
    stored = torch.randn(7, 3, generator=torch.Generator().manual_seed(8)).t()
    rows = torch.tensor([0, 1, 2])
    ids = torch.tensor([0, 0, 0])
    table = _table(torch.float32)
    assert not stored.is_contiguous()
    got = embed_inject(table, ids, injected_rows=rows, activations=stored, injection_scale=3.0)
    same = embed_inject(
        table, ids, injected_rows=rows, activations=stored.contiguous(), injection_scale=3.0
    )
    torch.testing.assert_close(got, same, rtol=1e-6, atol=1e-7)
