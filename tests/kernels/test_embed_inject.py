"""Where a pass starts, reference and kernel: embeddings scaled, a buffer's rows over some."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from support.backends import BACKEND_DTYPES, BACKENDS, REFERENCE, TRITON, Backend


def _drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _table(
    dtype: torch.dtype, backend: Backend = REFERENCE, vocab_size: int = 11, width: int = 7
) -> Tensor:
    return _drawn(vocab_size, width, seed=5).to(dtype).to(backend.device)


def _ids(backend: Backend, *ids: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=backend.device)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_only_the_injected_rows_are_replaced(backend: Backend, dtype: torch.dtype) -> None:
    table = _table(dtype, backend)
    buffer = (_drawn(6, 7, seed=1) * 80000).clamp(-6e4, 6e4).to(dtype).to(backend.device)
    before, held = table.clone(), buffer.clone()
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 3, 10, 0, 3, 9),
        injected_rows=_ids(backend, 4, 1),
        buffer=buffer,
        buffer_rows=_ids(backend, 5, 2),
    )
    assert out.dtype == dtype
    assert torch.equal(out[[0, 2, 3]], table[[3, 0, 3]])
    assert torch.equal(out[[4, 1]], buffer[[5, 2]])
    assert torch.equal(table, before) and torch.equal(buffer, held), "an input was written to"


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
    table, buffer = _table(torch.float32, backend), _drawn(1, 7, seed=2).to(backend.device)
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 1, 1),
        embed_scale=61.97,
        injected_rows=_ids(backend, 0),
        buffer=buffer,
        buffer_rows=_ids(backend, 0),
    )
    assert torch.equal(out[0], buffer[0])
    torch.testing.assert_close(out[1], table[1] * 61.97)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_every_value_is_copied_exactly(backend: Backend, dtype: torch.dtype) -> None:
    """The largest and the smallest, zeros of both signs, infinity and NaN, to the last bit."""
    info = torch.finfo(dtype)
    values = [info.max, info.min, info.tiny, -info.smallest_normal / 4, 0.0, -0.0, torch.inf]
    buffer = torch.tensor([values, [torch.nan] * 7], dtype=dtype, device=backend.device)
    rows = _ids(backend, 0, 2)
    out = backend.ops.embed_inject(
        _table(dtype, backend),
        _ids(backend, 1, 2, 3),
        injected_rows=rows,
        buffer=buffer,
        buffer_rows=_ids(backend, 0, 1),
    )
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(out[0].view(bits), buffer[0].view(bits))
    assert out[2].isnan().all() and out[1].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_the_buffer_may_be_injected_twice(backend: Backend) -> None:
    table, buffer = _table(torch.float32, backend), _drawn(3, 7, seed=3).to(backend.device)
    rows, chosen = _ids(backend, 3, 0, 2), _ids(backend, 1, 2, 1)
    out = backend.ops.embed_inject(
        table, _ids(backend, 1, 2, 3, 4), injected_rows=rows, buffer=buffer, buffer_rows=chosen
    )
    assert torch.equal(out[rows], buffer[chosen]) and torch.equal(out[1], table[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_wider_buffer(backend: Backend) -> None:
    stored = _drawn(14, 19, seed=8).to(backend.device)
    table, rows = _table(torch.float32, backend), _ids(backend, 0, 1, 2)
    for buffer in (stored[:, 5:12], stored[::4, :7], stored[1:5, 12:]):
        out = backend.ops.embed_inject(
            table, rows, injected_rows=rows, buffer=buffer, buffer_rows=_ids(backend, 3, 0, 1)
        )
        assert torch.equal(out, buffer[[3, 0, 1]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_a_wider_table(backend: Backend) -> None:
    table, ids = _table(torch.float16, backend, width=20)[:, 3:10], _ids(backend, 10, 0, 4)
    assert torch.equal(backend.ops.embed_inject(table, ids), table[ids])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_id_at_an_injected_row_need_not_exist(backend: Backend) -> None:
    table, ids = _table(torch.float32, backend), _ids(backend, 4, -1, 11, 2**40, 10)
    before = ids.clone()
    injected, buffer = _ids(backend, 3, 1, 2), torch.eye(3, 7, device=backend.device)
    out = backend.ops.embed_inject(
        table, ids, injected_rows=injected, buffer=buffer, buffer_rows=_ids(backend, 0, 1, 2)
    )
    assert torch.equal(out[injected], buffer)
    assert torch.equal(out[[0, 4]], table[[4, 10]]) and torch.equal(ids, before)


@pytest.mark.parametrize("backend", [TRITON], ids=str)
def test_the_kernel_answers_an_unknown_id_with_nan(backend: Backend) -> None:
    table = _table(torch.float32, backend)
    out = backend.ops.embed_inject(table, _ids(backend, 0, -1, 11, 10))
    assert out[1:3].isnan().all() and torch.equal(out[[0, 3]], table[[0, 10]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_more_injected_rows_than_one_comparison_holds(
    backend: Backend, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloss_kernels.embed_inject.INDEX_BLOCK", 4)
    table, ids = _table(torch.float32, backend), _ids(backend, *range(11), 0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    injected = order[:count].to(backend.device)
    buffer = _drawn(12, 7, seed=4).to(backend.device)
    chosen = order.flip(0)[:count].contiguous().to(backend.device)
    out = backend.ops.embed_inject(
        table, ids, injected_rows=injected, buffer=buffer, buffer_rows=chosen
    )
    assert torch.equal(out[injected], buffer[chosen])
    rest = order[count:].to(backend.device)
    assert torch.equal(out[rest], table[ids[rest]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [1, 130, 16384, 20001])
def test_widths_of_one_block_and_of_several(backend: Backend, width: int) -> None:
    table = _table(torch.float16, backend, vocab_size=3, width=width)
    buffer = _drawn(2, width, seed=9).to(torch.float16).to(backend.device)
    out = backend.ops.embed_inject(
        table,
        _ids(backend, 2, 0),
        embed_scale=3.0,
        injected_rows=_ids(backend, 1),
        buffer=buffer,
        buffer_rows=_ids(backend, 1),
    )
    assert torch.equal(out[0], table[2] * 3) and torch.equal(out[1], buffer[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_embed_and_nothing_to_inject(backend: Backend) -> None:
    table, none = _table(torch.float32, backend), _ids(backend)
    buffer = torch.zeros(0, 7, device=backend.device)
    empty = backend.ops.embed_inject(
        table, none, injected_rows=none, buffer=buffer, buffer_rows=none
    )
    assert empty.shape == (0, 7)
    out = backend.ops.embed_inject(
        table, _ids(backend, 5, 6), injected_rows=none, buffer=buffer, buffer_rows=none
    )
    assert torch.equal(out, table[5:7])
