"""Rows on the wire: every type bit by bit, and what is refused before it is sent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import InvalidRequest, ServerError
from gloss_client.tensors import check_rows, decode_rows, encode_rows

ROWS = np.array([[1.0, -2.5, 0.0], [3e-3, 65504.0, -1e-7]], np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wire_dtype", ["float32", "bfloat16", "float16"])
def test_rows_come_back(dtype: type, wire_dtype: str) -> None:
    rows = ROWS.astype(dtype)
    tensor = encode_rows(rows, wire_dtype)
    assert tuple(tensor.shape) == (2, 3)
    assert len(tensor.data) == 6 * (4 if wire_dtype == "float32" else 2)
    # Half a unit in the last place: 2^-24, 2^-8 and 2^-11 of the value; the last row's -1e-7 is
    # below float16's smallest normal number, where the step is 2^-24.
    precision = {"float32": 2**-24, "bfloat16": 2**-8, "float16": 2**-11}[wire_dtype]
    got = decode_rows(tensor)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, rows.astype(np.float64), rtol=precision, atol=2**-25)


def test_bfloat16_rounds_as_torch_does() -> None:
    """Every upper half with lower halves on both sides of the tie and on it, NaN and inf too."""
    upper = np.arange(2**16, dtype=np.uint32)
    bits = np.concatenate([(upper << 16) | lower for lower in (0, 1, 0x7FFF, 0x8000, 0x8001)])
    values = bits.view(np.float32).reshape(5, -1)
    fits = np.abs(values) < 3.38e38  # the next value up rounds to infinity, which is refused
    values = np.where(fits | ~np.isfinite(values), values, 0).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    got = decode_rows(encode_rows(values, "bfloat16"))
    np.testing.assert_array_equal(got, expected)
    assert (np.signbit(got) == np.signbit(expected))[~np.isnan(got)].all()


def test_strided_and_big_endian_rows_are_sent_in_order() -> None:
    wide = np.arange(24, dtype=">f4").reshape(4, 6)
    strided = wide[::-1, ::2]
    assert not strided.flags["C_CONTIGUOUS"]
    got = decode_rows(encode_rows(strided, "float32"))
    np.testing.assert_array_equal(got, strided.astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "reason", "message"),
    [
        (np.zeros(4, np.float32), "DIMENSION_MISMATCH", "activations[None]"),
        (np.zeros((1, 2, 3), np.float32), "DIMENSION_MISMATCH", "(1, 2, 3)"),
        (np.zeros((3, 0), np.float32), "DIMENSION_MISMATCH", "(3, 0)"),
        (np.zeros((3, 2), np.int64), "DIMENSION_MISMATCH", "astype(np.float32)"),
        (np.zeros((3, 2), np.complex64), "DIMENSION_MISMATCH", "complex64"),
        (np.zeros((0, 4), np.float32), "EMPTY_BATCH", "no rows"),
        ([[1.0, 2.0]], "DIMENSION_MISMATCH", "got list"),
        (torch.zeros(2, 3), "DIMENSION_MISMATCH", "tensor.float().cpu().numpy()"),
    ],
)
def test_what_is_no_batch_is_refused(rows: object, reason: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_rows(rows)
    assert (caught.value.reason, caught.value.field) == (reason, "activations")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "dtype", "wire_dtype"),
    [
        (80000.0, np.float32, "float16"),
        (1e300, np.float64, "float32"),
        (1e300, np.float64, "bfloat16"),
        (3.4e38, np.float32, "bfloat16"),
    ],
)
def test_a_value_the_type_cannot_hold_is_refused_by_row(
    value: float, dtype: type, wire_dtype: str
) -> None:
    rows = np.ones((3, 2), dtype)
    rows[2, 1] = value
    with pytest.raises(InvalidRequest, match=r"activations\[12\].*cannot hold"):
        encode_rows(rows, wire_dtype, first_index=10)


@pytest.mark.parametrize("wire_dtype", ["float32", "bfloat16", "float16"])
def test_infinity_and_nan_are_the_servers_to_judge(wire_dtype: str) -> None:
    """They fail one item, not the batch."""
    rows = np.array([[np.inf, -np.inf, np.nan]])
    np.testing.assert_array_equal(decode_rows(encode_rows(rows, wire_dtype)), rows)


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(dtype=pb.TENSOR_DTYPE_FLOAT32, shape=[1, 2], data=b"1234567"),
        pb.Tensor(dtype=pb.TENSOR_DTYPE_UNSPECIFIED, shape=[1, 1], data=b"1234"),
        pb.Tensor(dtype=9, shape=[1, 1], data=b"1234"),
    ],
)
def test_a_reply_that_does_not_fit_together_is_a_servers_fault(tensor: pb.Tensor) -> None:
    with pytest.raises(ServerError, match="do not fit together"):
        decode_rows(tensor)
