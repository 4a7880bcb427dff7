"""Numpy rows to the contract's tensors and back: raw bytes, never lists of numbers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import InvalidRequest, ServerError

WireDtype = Literal["float32", "bfloat16", "float16"]
"""Element type on the wire; bfloat16 and float16 halve the bytes."""

WIRE_DTYPES: dict[str, pb.TensorDtype] = {
    "float32": pb.TENSOR_DTYPE_FLOAT32,
    "bfloat16": pb.TENSOR_DTYPE_BFLOAT16,
    "float16": pb.TENSOR_DTYPE_FLOAT16,
}
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_wire_dtype(wire_dtype: str) -> None:
    """Refuse the name of a type that does not go over the wire."""
    if wire_dtype not in WIRE_DTYPES:
        raise InvalidRequest(
            f"wire_dtype: got {wire_dtype!r}, expected float32, bfloat16 or float16",
            field="wire_dtype",
        )


def check_rows(activations: np.ndarray) -> np.ndarray:
    """Refuse what is not [n, d_model] of floats with n of 1 or more.

    Raises:
        InvalidRequest: what was got, what was expected and how to get there.
    """
    if not isinstance(activations, np.ndarray):
        raise _refused(
            f"got {type(activations).__name__}, expected a numpy array (of a torch tensor: "
            "tensor.float().cpu().numpy())"
        )
    if activations.ndim == 1:
        raise _refused(
            f"got one vector of {activations.shape[0]}, expected [n, d_model]: one activation is "
            "activations[None]"
        )
    if activations.ndim != 2 or activations.shape[1] == 0:
        raise _refused(f"got shape {activations.shape}, expected [n, d_model]")
    if not (np.issubdtype(activations.dtype, np.floating) or activations.dtype.name == "bfloat16"):
        raise _refused(
            f"got dtype {activations.dtype}, expected a float type: activations.astype(np.float32)"
        )
    if activations.shape[0] == 0:
        raise _refused("got no rows, expected at least one", "EMPTY_BATCH")
    return activations


def encode_rows(rows: np.ndarray, wire_dtype: WireDtype, first_index: int = 0) -> pb.Tensor:
    """Rows as a tensor.

    Args:
        rows: [n, d_model] of any float type.
        wire_dtype: element type to send; float32 is rounded to nearest, ties to even.
        first_index: index of the first row in the caller's batch, for errors.

    Raises:
        InvalidRequest: a finite value that the type cannot hold.
    """
    with np.errstate(over="ignore"):
        singles = np.ascontiguousarray(rows, np.dtype("<f4"))
        if wire_dtype == "float32":
            sent = singles
        elif wire_dtype == "float16":
            sent = singles.astype("<f2")
        else:
            sent = _to_bfloat16(singles)
    if wire_dtype != "float32" or rows.dtype.itemsize > 4:
        _check_fits(rows, sent, wire_dtype, first_index)
    return pb.Tensor(dtype=WIRE_DTYPES[wire_dtype], shape=rows.shape, data=sent.tobytes())


def decode_rows(tensor: pb.Tensor) -> np.ndarray:
    """[n, d_model] float32, writable.

    Raises:
        ServerError: bytes that do not fit shape and type.
    """
    names = {number: name for name, number in WIRE_DTYPES.items()}
    name, shape = names.get(tensor.dtype), tuple(tensor.shape)
    if name is None or len(tensor.data) != math.prod(shape) * ITEM_BYTES[name]:
        raise ServerError(
            f"a tensor of the reply: got {len(tensor.data)} bytes for shape {shape} and dtype "
            f"number {tensor.dtype}, which do not fit together"
        )
    if name == "bfloat16":
        upper = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
        rows = (upper << 16).view(np.float32)
    else:
        rows = np.frombuffer(tensor.data, "<f4" if name == "float32" else "<f2").astype(np.float32)
    return rows.reshape(shape)


def _to_bfloat16(singles: np.ndarray) -> np.ndarray:
    """The upper halves of float32, rounded to nearest, ties to even; NaN stays NaN."""
    bits = singles.view("<u4").astype(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding a NaN could carry into infinity; the quiet bit keeps it a NaN.
    return np.where(np.isnan(singles), (bits >> 16) | 0x40, rounded).astype("<u2")


def _check_fits(rows: np.ndarray, sent: np.ndarray, wire_dtype: str, first_index: int) -> None:
    """Infinities that only the conversion made would come back as NON_FINITE_VECTOR, misleading."""
    infinite = (sent & 0x7FFF) == 0x7F80 if wire_dtype == "bfloat16" else np.isinf(sent)
    lost = np.logical_and(infinite, np.isfinite(rows))
    if lost.any():
        row, column = np.argwhere(lost)[0]
        raise InvalidRequest(
            f"activations[{first_index + row}]: got {rows[row, column]}, which {wire_dtype} cannot "
            "hold; send float32, or bfloat16 for half the bytes",
            reason="UNSUPPORTED_DTYPE",
            field=f"activations[{first_index + row}]",
        )


def _refused(message: str, reason: str = "DIMENSION_MISMATCH") -> InvalidRequest:
    return InvalidRequest(f"activations: {message}", reason=reason, field="activations")
