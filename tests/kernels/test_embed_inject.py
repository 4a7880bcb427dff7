"""The prefill buffer, reference and kernel: embeddings scaled, activations brought to a norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gloss_kernels import scale_to_norm
from support.backends import BACKEND_DTYPES, BACKENDS, DTYPES, REFERENCE, TRITON, Backend

# One rounding to the table's type; float32 carries the norm and two products.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}
WIDE_DTYPES = [
    pytest.param(backend, dtype, id=f"{backend.name}-{str(dtype).removeprefix('torch.')}")
    for backend in (REFERENCE, TRITON)
    for dtype in DTYPES[backend.name]
    if dtype != torch.float16
]
# Triton's interpreter computes with numpy, which warns where a GPU gives an infinity or NaN.
NUMPY_SPEAKS = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def _drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _table(
    dtype: torch.dtype, backend: Backend = REFERENCE, vocab_size: int = 11, width: int = 7
) -> Tensor:
    return _drawn(vocab_size, width, seed=5).to(dtype).to(backend.device)


def _ids(backend: Backend, *ids: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=backend.device)


def _at_norm(activations: Tensor, norm: float) -> Tensor:
    rows = activations.double().cpu()
    return rows / rows.norm(dim=-1, keepdim=True) * norm


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_only_the_injected_rows_are_replaced(backend: Backend, dtype: torch.dtype) -> None:
    table = _table(dtype, backend)
    before = table.clone()
    activations = (_drawn(2, 7, seed=1) * 40).to(backend.device)
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 3, 10, 0, 3, 9),
        injected_rows=_ids(backend, 4, 1),
        activations=activations,
        injection_scale=12.5,
    )
    expected = _at_norm(activations, 12.5)
    assert out.dtype == dtype
    assert torch.equal(out[[0, 2, 3]], table[[3, 0, 3]])
    torch.testing.assert_close(
        out[[4, 1]].double().cpu(), expected, rtol=TOLERANCES[dtype], atol=1e-6
    )
    assert torch.equal(table, before), "the table was written to"


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_gemmas_embedding_scale_is_rounded_to_the_tables_type(
    backend: Backend, dtype: torch.dtype
) -> None:
    table, ids = _table(dtype, backend, vocab_size=16), torch.arange(16, device=backend.device)
    out = backend.ops.embed_inject(table, ids, embed_scale=math.sqrt(3840))
    factor = torch.tensor(math.sqrt(3840), dtype=dtype, device=backend.device)
    assert torch.equal(out, table * factor)
    if dtype != torch.float32:
        exact = (table.float() * math.sqrt(3840)).to(dtype)
        assert not torch.equal(table * factor, exact), "this table cannot tell both roundings apart"
    if dtype == torch.bfloat16:
        assert torch.equal(out, table * 62.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_injected_rows_do_not_get_the_embedding_scale(backend: Backend) -> None:
    table = _table(torch.float32, backend)
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 1, 1),
        embed_scale=61.97,
        injected_rows=_ids(backend, 0),
        activations=torch.tensor([[3.0, 4.0, 0, 0, 0, 0, 0]], device=backend.device),
        injection_scale=10.0,
    )
    torch.testing.assert_close(out[0, :2].cpu(), torch.tensor([6.0, 8.0]))
    torch.testing.assert_close(out[1], table[1] * 61.97)


@pytest.mark.parametrize(("backend", "dtype"), WIDE_DTYPES)
def test_a_scale_beyond_half_precision(backend: Backend, dtype: torch.dtype) -> None:
    # 80000 does not fit float16; in bfloat16 the rescaling happens in float32 and is cast last.
    width = 3840
    activations = (_drawn(3, width, seed=2) * 100).to(backend.device)
    out = backend.ops.embed_inject(
        torch.zeros(2, width, dtype=dtype, device=backend.device),
        _ids(backend, 0, 1, 0),
        injected_rows=_ids(backend, 0, 1, 2),
        activations=activations,
        injection_scale=80000.0,
    )
    # The cast alone: half a unit in the last place of bfloat16; float32 sums 3840 squares.
    tolerance = 2.0**-8 * 1.001 if dtype == torch.bfloat16 else 2e-6
    exact = _at_norm(activations, 80000)
    torch.testing.assert_close(out.double().cpu(), exact, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_any_type_are_rescaled_in_float32(dtype: torch.dtype) -> None:
    activations = (_drawn(4, 65, seed=7)).to(dtype) * 200
    out = scale_to_norm(activations, 150.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=-1), torch.full((4,), 150.0), rtol=1e-6, atol=0)
    cosine = torch.nn.functional.cosine_similarity(out.double(), activations.double(), dim=-1)
    torch.testing.assert_close(cosine, torch.ones(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_any_type_are_injected(backend: Backend, dtype: torch.dtype) -> None:
    activations = (_drawn(2, 65, seed=7) * 200).to(dtype).to(backend.device)
    out = backend.ops.embed_inject(
        _table(torch.float32, backend, width=65),
        _ids(backend, 1, 2),
        injected_rows=_ids(backend, 1, 0),
        activations=activations,
        injection_scale=150.0,
    )
    expected = _at_norm(activations, 150)[[1, 0]]
    torch.testing.assert_close(out.double().cpu(), expected, rtol=1e-6, atol=0)


def test_the_norm_is_clamped_and_zero_stays_zero() -> None:
    tiny = torch.zeros(2, 5)
    tiny[1, 2] = 1e-15
    out = scale_to_norm(tiny, 30.0)
    assert torch.equal(out[0], torch.zeros(5))
    # Below the clamp a row is multiplied by norm / 1e-12, not brought to the norm.
    torch.testing.assert_close(out[1, 2].item(), 0.03, rtol=1e-6, atol=0)
    assert scale_to_norm(torch.empty(0, 5), 1.0).shape == (0, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_injected_row_is_clamped_like_scale_to_norm(backend: Backend) -> None:
    tiny = torch.zeros(2, 7)
    tiny[1, 2] = 1e-15
    out = backend.ops.embed_inject(
        _table(torch.float32, backend),
        _ids(backend, 1, 2),
        injected_rows=_ids(backend, 0, 1),
        activations=tiny.to(backend.device),
        injection_scale=30.0,
    )
    torch.testing.assert_close(out.cpu(), scale_to_norm(tiny, 30.0), rtol=1e-6, atol=0)


@NUMPY_SPEAKS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_activation_stays_alone(backend: Backend, poison: float) -> None:
    activations = torch.ones(2, 7, device=backend.device)
    activations[0, 3] = poison
    out = backend.ops.embed_inject(
        _table(torch.float32, backend),
        _ids(backend, 1, 2, 3),
        injected_rows=_ids(backend, 0, 2),
        activations=activations,
    )
    assert out[0, 3].isnan() and (out[0].isnan().all() or poison == torch.inf)
    assert out[1:].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_activations(backend: Backend) -> None:
    stored = _drawn(14, 9, seed=8).to(backend.device)
    table, rows = _table(torch.float32, backend), _ids(backend, 0, 1, 2)
    for activations in (stored[:7, :3].t(), stored[::2].t()[::3], stored[4:7, 1:8]):
        assert not activations.is_contiguous()
        got, same = (
            backend.ops.embed_inject(
                table, rows, injected_rows=rows, activations=each, injection_scale=3.0
            )
            for each in (activations, activations.contiguous())
        )
        torch.testing.assert_close(got, same, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_wider_table(backend: Backend) -> None:
    table, ids = _table(torch.float16, backend, width=20)[:, 3:10], _ids(backend, 10, 0, 4)
    assert torch.equal(backend.ops.embed_inject(table, ids), table[ids])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_id_at_an_injected_row_need_not_exist(backend: Backend) -> None:
    table, ids = _table(torch.float32, backend), _ids(backend, 4, -1, 11, 2**40, 10)
    before = ids.clone()
    injected, activations = _ids(backend, 3, 1, 2), torch.eye(3, 7, device=backend.device)
    out = backend.ops.embed_inject(
        table, ids, injected_rows=injected, activations=activations, injection_scale=2.0
    )
    torch.testing.assert_close(out[injected], activations * 2)
    assert torch.equal(out[[0, 4]], table[[4, 10]]) and torch.equal(ids, before)


@pytest.mark.parametrize("backend", [TRITON], ids=str)
def test_the_kernel_answers_an_unknown_id_with_nan(backend: Backend) -> None:
    table = _table(torch.float32, backend)
    out = backend.ops.embed_inject(table, _ids(backend, 0, -1, 11, 10))
    assert out[1:3].isnan().all() and torch.equal(out[[0, 3]], table[[0, 10]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_more_activations_than_one_comparison_holds(
    backend: Backend, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloss_kernels.embed_inject.INDEX_BLOCK", 4)
    table, ids = _table(torch.float32, backend), _ids(backend, *range(11), 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    injected = order[:count].to(backend.device)
    activations = _drawn(count, 7, seed=4).to(backend.device)
    out = backend.ops.embed_inject(
        table, ids, injected_rows=injected, activations=activations, injection_scale=5.0
    )
    expected = _at_norm(activations, 5.0)
    torch.testing.assert_close(out[injected].double().cpu(), expected, rtol=1e-6, atol=0)
    rest = order[count:].to(backend.device)
    assert torch.equal(out[rest], table[ids[rest]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 130, 16384, 20001])
def test_widths_of_one_block_and_of_several(backend: Backend, width: int) -> None:
    table = _table(torch.float16, backend, vocab_size=3, width=width)
    activations = _drawn(1, width, seed=9).to(backend.device)
    activations[:, 8192:] *= 3
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 2, 0),
        embed_scale=3.0,
        injected_rows=_ids(backend, 1),
        activations=activations,
        injection_scale=400.0,
    )
    assert torch.equal(out[0], table[2] * 3)
    expected = _at_norm(activations, 400)
    # 2^-25: half a step of float16 where it has no smaller ones.
    torch.testing.assert_close(out[1:].double().cpu(), expected, rtol=2.0**-10, atol=2.0**-25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_embed_and_nothing_to_inject(backend: Backend) -> None:
    table, none = _table(torch.float32, backend), _ids(backend)
    activations = torch.zeros(0, 7, device=backend.device)
    empty = backend.ops.embed_inject(table, none, injected_rows=none, activations=activations)
    assert empty.shape == (0, 7)
    out = backend.ops.embed_inject(
        table, _ids(backend, 5, 6), injected_rows=none, activations=activations
    )
    assert torch.equal(out, table[5:7])
