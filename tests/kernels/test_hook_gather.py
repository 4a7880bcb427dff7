"""Capture, reference and kernel: exact copies, norms, injection, strides, widths, range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.backends import BACKEND_DTYPES, BACKENDS, DTYPES, REFERENCE, TRITON, Backend

# Adding up thousands of float32 squares in a tree, a root, a division and two products.
FLOAT32 = 2e-6
# One rounding to the buffer's type, half a unit in the last place, after that.
TOLERANCES = {
    torch.float32: FLOAT32,
    torch.bfloat16: 1.01 * 2.0**-8,
    torch.float16: 1.01 * 2.0**-11,
}
WIDE_DTYPES = [
    pytest.param(backend, dtype, id=f"{backend.name}-{str(dtype).removeprefix('torch.')}")
    for backend in (REFERENCE, TRITON)
    for dtype in DTYPES[backend.name]
    if dtype != torch.float16
]
# Triton's interpreter computes with numpy, which warns where a GPU gives an infinity or NaN.
NUMPY_SPEAKS = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")


def _drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 40).to(dtype)


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.double().cpu(), dim=-1)


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("width", [1, 7, 64, 129])
def test_rows_are_copied_exactly_and_measured(
    backend: Backend, dtype: torch.dtype, width: int
) -> None:
    hidden = _drawn(9, width, seed=width, dtype=dtype).to(backend.device)
    before, rows = hidden.clone(), torch.tensor([8, 0, 3, 3], device=backend.device)
    raw, norms = backend.ops.hook_gather(hidden, rows)
    assert raw.dtype == norms.dtype == torch.float32
    assert raw.shape == (4, width) and norms.shape == (4,)
    assert torch.equal(raw, hidden[rows].float())
    torch.testing.assert_close(norms.double().cpu(), _norms(raw), rtol=FLOAT32, atol=0)
    assert torch.equal(hidden, before)
    raw.zero_()
    assert torch.equal(hidden, before), "the result is a copy"


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
@pytest.mark.parametrize("buffer_dtype", [torch.float32, torch.float16])
def test_the_buffer_takes_rows_at_their_norm(
    backend: Backend, dtype: torch.dtype, buffer_dtype: torch.dtype
) -> None:
    hidden = _drawn(6, 45, seed=3, dtype=dtype).to(backend.device)
    rows = torch.tensor([5, 1, 1], device=backend.device)
    places = torch.tensor([0, 6, 2], device=backend.device)
    buffer = _drawn(7, 45, seed=4, dtype=buffer_dtype).to(backend.device)
    before = buffer.clone()
    raw, norms = backend.ops.hook_gather(
        hidden, rows, buffer=buffer, buffer_rows=places, injection_scale=150.0
    )
    assert torch.equal(raw, hidden[rows].float())
    torch.testing.assert_close(norms.double().cpu(), _norms(raw), rtol=FLOAT32, atol=0)
    expected = (raw.double().cpu() / _norms(raw)[:, None]) * 150
    got = buffer[places].double().cpu()
    torch.testing.assert_close(got, expected, rtol=TOLERANCES[buffer_dtype], atol=1e-7)
    others = [1, 3, 4, 5]
    assert torch.equal(buffer[others], before[others]), "a row nobody named was written"


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_captured_and_injected_later_is_the_same_as_at_once(
    backend: Backend, dtype: torch.dtype
) -> None:
    """A raw row that a caller sends back stands in the buffer as one that was captured into it."""
    hidden = _drawn(3, 33, seed=8, dtype=dtype).to(backend.device)
    rows, places = (torch.tensor(each, device=backend.device) for each in ([2, 0], [1, 3]))
    at_once, later = (torch.zeros(4, 33, dtype=dtype, device=backend.device) for _ in range(2))
    raw, norms = backend.ops.hook_gather(
        hidden, rows, buffer=at_once, buffer_rows=places, injection_scale=80.0
    )
    again = backend.ops.hook_gather(
        raw, torch.arange(2, device=backend.device), buffer=later, buffer_rows=places,
        injection_scale=80.0,
    )  # fmt: skip
    assert torch.equal(later, at_once) and at_once[places].any(1).all()
    assert torch.equal(again[0], raw) and torch.equal(again[1], norms)


@pytest.mark.parametrize(("backend", "dtype"), WIDE_DTYPES)
def test_a_scale_beyond_half_precision(backend: Backend, dtype: torch.dtype) -> None:
    # 80000 does not fit float16; in bfloat16 the rescaling happens in float32 and is cast last.
    hidden = _drawn(3, 3840, seed=2).to(backend.device)
    rows = torch.arange(3, device=backend.device)
    buffer = torch.zeros(3, 3840, dtype=dtype, device=backend.device)
    backend.ops.hook_gather(hidden, rows, buffer=buffer, buffer_rows=rows, injection_scale=80000.0)
    exact = hidden.double().cpu() / _norms(hidden)[:, None] * 80000
    torch.testing.assert_close(buffer.double().cpu(), exact, rtol=TOLERANCES[dtype], atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides(backend: Backend) -> None:
    stored = _drawn(3, 21, 10, seed=5).to(backend.device)
    rows = torch.tensor([4, 0], device=backend.device)
    wide = torch.full((5, 30), 7.0, device=backend.device)
    places = torch.tensor([1, 4], device=backend.device)
    for hidden in (stored[1].t(), stored[:, :, 3].t()[::2, :], stored[2, ::4, ::3], stored[2, 3:9]):
        width = hidden.shape[1]
        wide.fill_(7.0)
        raw, norms = backend.ops.hook_gather(
            hidden, rows, buffer=wide[:, 4 : 4 + width], buffer_rows=places, injection_scale=9.0
        )
        plain = backend.ops.hook_gather(hidden.contiguous(), rows)
        assert torch.equal(raw, plain[0]) and torch.equal(norms, plain[1])
        scaled = raw * (9.0 / norms)[:, None]
        torch.testing.assert_close(wide[places, 4 : 4 + width], scaled, rtol=FLOAT32, atol=0)
        wide[places, 4 : 4 + width] = 7.0
        assert torch.equal(wide, torch.full_like(wide, 7.0)), "written outside its rows"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [8193, 16384, 16385, 20001])
def test_widths_of_one_block_and_of_several(backend: Backend, width: int) -> None:
    # Column by column in memory; each part of the row weighs differently, so that a block left out
    # is seen.
    hidden = _drawn(width, 2, seed=1, dtype=torch.float16).to(backend.device).t()
    hidden[:, 16384:] *= 4
    buffer = torch.zeros(1, width, device=backend.device)
    raw, norms = backend.ops.hook_gather(
        hidden,
        torch.tensor([1], device=backend.device),
        buffer=buffer,
        buffer_rows=torch.tensor([0], device=backend.device),
        injection_scale=60000.0,
    )
    assert torch.equal(raw, hidden[1:].float())
    torch.testing.assert_close(norms.double().cpu(), _norms(raw), rtol=FLOAT32, atol=0)
    expected = raw.double().cpu() / _norms(raw)[:, None] * 60000
    torch.testing.assert_close(buffer.double().cpu(), expected, rtol=FLOAT32, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: Backend) -> None:
    none = torch.zeros(0, dtype=torch.int64, device=backend.device)
    buffer = torch.ones(3, 5, device=backend.device)
    for tokens in (4, 0):
        hidden = torch.ones(tokens, 5, device=backend.device)
        raw, norms = backend.ops.hook_gather(hidden, none, buffer=buffer, buffer_rows=none)
        assert raw.shape == (0, 5) and norms.shape == (0,)
        assert torch.equal(buffer, torch.ones_like(buffer))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1e-17, 1e-13, 1.0, 1e4, 1e17])
def test_the_norm_over_its_range(backend: Backend, size: float) -> None:
    # Squares of 1e-17 and sums of 3840 squares of 1e17 are within float32.
    hidden = (_drawn(1, 3840, seed=2) / 40 * size).to(backend.device)
    rows = torch.zeros(1, dtype=torch.int64, device=backend.device)
    _, norms = backend.ops.hook_gather(hidden, rows)
    torch.testing.assert_close(norms.double().cpu(), _norms(hidden), rtol=FLOAT32, atol=0)


@NUMPY_SPEAKS
@pytest.mark.parametrize("backend", BACKENDS)
def test_where_the_range_ends(backend: Backend) -> None:
    hidden = torch.tensor([[1e-25] * 3, [0.0] * 3, [1e-15, 0.0, 0.0], [1e20] * 3])
    buffer = torch.ones(4, 3, device=backend.device)
    rows = torch.arange(4, device=backend.device)
    raw, norms = backend.ops.hook_gather(
        hidden.to(backend.device), rows, buffer=buffer, buffer_rows=rows, injection_scale=30.0
    )
    assert torch.equal(raw.cpu(), hidden)
    assert norms[0] <= 1e-22 and norms[1] == 0 and norms[3].isinf()
    # Below the clamp of 1e-12 a row is multiplied by 30 / 1e-12, whether its norm underflowed or
    # not; a norm that overflowed leaves zeros.
    torch.testing.assert_close(buffer[:3].cpu(), hidden[:3] * 3e13, rtol=FLOAT32, atol=0)
    assert not buffer[3].any()


@NUMPY_SPEAKS
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_poisoned_row_stays_alone_and_is_seen(backend: Backend, poison: float) -> None:
    hidden = torch.ones(3, 9, device=backend.device)
    hidden[1, 4] = poison
    rows, buffer = torch.arange(3, device=backend.device), torch.ones_like(hidden)
    raw, norms = backend.ops.hook_gather(hidden, rows, buffer=buffer, buffer_rows=rows)
    assert torch.equal(raw.nan_to_num(5.0, 6.0), hidden.nan_to_num(5.0, 6.0))
    assert not norms[1].isfinite() and buffer[1, 4].isnan()
    assert buffer[1].isnan().all() or poison == torch.inf
    assert buffer[[0, 2]].isfinite().all() and norms[[0, 2]].isfinite().all()


@pytest.mark.parametrize(("backend", "dtype"), BACKEND_DTYPES)
def test_results_go_where_the_caller_says(backend: Backend, dtype: torch.dtype) -> None:
    """Into memory that stays where it is, as a captured step needs, and not beside it."""
    hidden = _drawn(5, 33, seed=2, dtype=dtype).to(backend.device)
    rows = torch.tensor([4, 1], device=backend.device)
    places = torch.tensor([2, 0], device=backend.device)
    whole, all_norms = torch.full((2, 4, 33), torch.nan).to(backend.device).unbind()
    raw, norms = whole[1:3], all_norms.flatten()[7:9]
    buffer = torch.zeros(3, 33, device=backend.device)
    got = backend.ops.hook_gather(
        hidden, rows, buffer=buffer, buffer_rows=places, injection_scale=7.0, out=(raw, norms)
    )
    assert got[0].data_ptr() == raw.data_ptr() and got[1].data_ptr() == norms.data_ptr()
    assert torch.equal(raw, hidden[rows].float())
    torch.testing.assert_close(norms.double().cpu(), _norms(raw), rtol=FLOAT32, atol=0)
    lengths = _norms(buffer[[2, 0]])
    torch.testing.assert_close(lengths, torch.full((2,), 7.0).double(), rtol=FLOAT32, atol=0)
    assert whole[[0, 3]].isnan().all() and all_norms.isnan().sum() == 4 * 33 - 2
