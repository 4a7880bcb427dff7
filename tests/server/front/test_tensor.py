"""Rows of the contract: every dtype and back, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call_error import CallError
from gloss_server.front.tensor import decode_rows, encode_rows, reply_bytes

DTYPES = {
    pb.TENSOR_DTYPE_FLOAT32: torch.float32,
    pb.TENSOR_DTYPE_BFLOAT16: torch.bfloat16,
    pb.TENSOR_DTYPE_FLOAT16: torch.float16,
}


def _odd_values() -> np.ndarray:
    rng = np.random.default_rng(0)
    ordinary = rng.normal(size=(7, 13)) * 10.0 ** rng.integers(-30, 30, (7, 13))
    rows = ordinary.astype(np.float32)
    rows[0, :6] = [np.inf, -np.inf, 0.0, -0.0, 1e-45, 3.4e38]
    # Exactly between two bfloat16 values: to the even one.
    rows[1, :4] = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0xFF7F8000], np.uint32).view("f4")
    return rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_encoding_rounds_as_torch_does(dtype: pb.TensorDtype) -> None:
    rows = _odd_values()
    tensor = encode_rows(rows, dtype)
    expected = torch.from_numpy(rows).to(DTYPES[dtype])
    assert tensor.data == expected.view(torch.uint8).numpy().tobytes()
    assert len(tensor.data) == reply_bytes(*rows.shape, dtype)
    decoded = decode_rows(tensor, 13, "x", 10)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, expected.float().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan(dtype: pb.TensorDtype) -> None:
    bits = [0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0x7FC00000]
    rows = np.array([bits], np.uint32).view(np.float32)
    decoded = decode_rows(encode_rows(rows, dtype), 4, "x", 1)
    assert np.isnan(decoded).all()


def test_unspecified_is_float32_in_replies_and_refused_in_requests() -> None:
    rows = np.ones((1, 3), np.float32)
    tensor = encode_rows(rows, pb.TENSOR_DTYPE_UNSPECIFIED)
    assert tensor.dtype == pb.TENSOR_DTYPE_FLOAT32
    tensor.dtype = pb.TENSOR_DTYPE_UNSPECIFIED
    with pytest.raises(CallError):
        decode_rows(tensor, 3, "x", 1)
