"""Tensors of the contract to numpy and back: raw little-endian bytes, never lists of numbers."""

from __future__ import annotations

import math

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call_error import CallError

_FLOAT32, _BFLOAT16, _FLOAT16 = (
    pb.TENSOR_DTYPE_FLOAT32,
    pb.TENSOR_DTYPE_BFLOAT16,
    pb.TENSOR_DTYPE_FLOAT16,
)
_ITEM_BYTES: dict[int, int] = {_FLOAT32: 4, _BFLOAT16: 2, _FLOAT16: 2}
_MAX_DIMENSIONS = 8
_DTYPES = "FLOAT32, BFLOAT16 or FLOAT16"


def decode_rows(tensor: pb.Tensor, width: int, field: str, max_rows: int) -> np.ndarray:
    """Rows of a request.

    Args:
        tensor: [n, width].
        width: what a row must have.
        field: its path in the request, for errors.
        max_rows: most rows.

    Returns:
        [n, width] float32; a view of the request's bytes where they are float32 already.

    Raises:
        CallError: shape, dtype and bytes that do not agree with each other or with the model.
    """
    if tensor.dtype not in _ITEM_BYTES:
        raise CallError(
            "UNSUPPORTED_DTYPE",
            f"{field}.dtype: got {_dtype_name(tensor.dtype)}, expected {_DTYPES}",
            f"{field}.dtype",
        )
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise CallError(
            "DIMENSION_MISMATCH",
            f"{field}.shape: got {len(tensor.shape)} dimensions, expected [n, {width}]",
            f"{field}.shape",
        )
    shape = list(tensor.shape)
    if 0 in shape or not shape:
        raise CallError(
            "EMPTY_BATCH",
            f"{field}.shape: got {shape}, expected [n, {width}] with n of 1 or more",
            f"{field}.shape",
        )
    if len(shape) != 2 or shape[1] != width or shape[0] < 0:
        raise CallError(
            "DIMENSION_MISMATCH",
            f"{field}.shape: got {shape}, expected [n, {width}]: one row an activation, as wide as "
            "the explained model's residual stream",
            f"{field}.shape",
        )
    if shape[0] > max_rows:
        raise CallError(
            "BATCH_TOO_LARGE",
            f"{field}.shape: got {shape[0]} rows, expected at most {max_rows}; send several calls",
            f"{field}.shape",
        )
    expected = math.prod(shape) * _ITEM_BYTES[tensor.dtype]
    if len(tensor.data) != expected:
        raise CallError(
            "DIMENSION_MISMATCH",
            f"{field}.data: got {len(tensor.data)} bytes, expected {expected} for shape {shape} of "
            f"{_dtype_name(tensor.dtype)}",
            f"{field}.data",
        )
    return _floats(tensor).reshape(shape)


def encode_rows(rows: np.ndarray, dtype: pb.TensorDtype) -> pb.Tensor:
    """Rows of a reply.

    Args:
        rows: [n, width] float32.
        dtype: element type to send; unspecified is float32.
    """
    shape, dtype = rows.shape, dtype or _FLOAT32
    if dtype == _FLOAT32:
        data = rows.astype("<f4").tobytes()
    elif dtype == _FLOAT16:
        with np.errstate(over="ignore"):
            data = rows.astype("<f2").tobytes()
    else:
        data = _to_bfloat16(rows).tobytes()
    return pb.Tensor(dtype=dtype, shape=shape, data=data)


def check_reply_dtype(dtype: int, field: str) -> None:
    """Refuse an element type that no reply can have.

    Raises:
        CallError: a number that names none.
    """
    if dtype != pb.TENSOR_DTYPE_UNSPECIFIED and dtype not in _ITEM_BYTES:
        raise CallError(
            "UNSUPPORTED_DTYPE",
            f"{field}: got {_dtype_name(dtype)}, expected {_DTYPES}, or nothing for FLOAT32",
            field,
        )


def reply_bytes(num_rows: int, width: int, dtype: int) -> int:
    """Bytes of a reply's rows."""
    return num_rows * width * _ITEM_BYTES.get(dtype, 4)


def _floats(tensor: pb.Tensor) -> np.ndarray:
    if tensor.dtype == _FLOAT32:
        return np.frombuffer(tensor.data, "<f4").astype(np.float32, copy=False)
    if tensor.dtype == _FLOAT16:
        return np.frombuffer(tensor.data, "<f2").astype(np.float32)
    upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
    return (upper << 16).view(np.float32)


def _to_bfloat16(rows: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(rows), quiet, rounded).astype("<u2")


def _dtype_name(dtype: int) -> str:
    if dtype in pb.TensorDtype.values():
        return pb.TensorDtype.Name(dtype).removeprefix("TENSOR_DTYPE_")
    return f"number {dtype}"
