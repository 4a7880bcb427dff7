"""A `.npy` file of activations, [n, d_model], read through a memory map and never unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gloss_server.command_error import CommandError
from gloss_server.files.activation_chunk import (
    ActivationChunk,
    BoolArray,
    FloatArray,
    as_float32,
    sidecar_layer,
    spans,
)

_FLOATS = (np.float16, np.float32, np.float64)


class NpyFile:
    """See `ActivationFile`.

    Raises:
        CommandError: pickled objects, no array, or no [n, d_model] matrix of floats.
        CheckpointError: a sidecar beside it that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array = _map(path)
        _check_shape(path, self._array)
        self.num_rows, self.width = self._array.shape
        self.layer_index = sidecar_layer(path, self.width)

    def chunks(self, needed: BoolArray, chunk_rows: int) -> Iterator[ActivationChunk]:
        """See `ActivationFile`."""
        for start, stop in spans(needed, chunk_rows):
            yield ActivationChunk(start=start, activations=_floats(self._array[start:stop]))


def _map(path: Path) -> NDArray[np.generic]:
    # Pickled objects are said apart: to read them would run what the file says.
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
        if dtype.hasobject:
            raise CommandError(
                f"{path}: got pickled objects, expected floats. Save a plain array: "
                "np.save(file, np.stack(rows).astype(np.float32))"
            )
        if 0 in shape:
            raise CommandError(f"{path}: got shape {list(shape)}, expected at least one row")
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise CommandError(
            f"{path}: got no readable .npy array ({error}), expected what np.save writes"
        ) from error


def _check_shape(path: Path, array: NDArray[np.generic]) -> None:
    shape = list(array.shape)
    if array.ndim == 1:
        raise CommandError(
            f"{path}: got shape {shape}, expected [n, d_model]. One activation is one row: save "
            "array[np.newaxis, :]"
        )
    if array.ndim != 2:
        raise CommandError(
            f"{path}: got shape {shape}, expected [n, d_model]. Save "
            "array.reshape(-1, array.shape[-1]); rows then count in that order"
        )
    if array.dtype.type not in _FLOATS and not _is_bfloat16(array.dtype):
        raise CommandError(
            f"{path}: got {array.dtype}, expected float16, float32 or float64. Save "
            "array.astype(np.float32)"
        )


def _is_bfloat16(dtype: np.dtype[np.generic]) -> bool:
    """numpy writes the bfloat16 of ml_dtypes as two bytes without a meaning of their own."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None


def _floats(rows: NDArray[np.generic]) -> FloatArray:
    if not _is_bfloat16(rows.dtype):
        return as_float32(rows)
    bits = np.ascontiguousarray(rows).view("<u2").astype(np.uint32)
    return (bits << np.uint32(16)).view(np.float32)
