"""Files of activations, opened by their suffix and read in chunks of rows.

`npy_file.py` and `parquet_file.py` read the two formats. Whether a row can be explained (finite,
not zero) is for the engine, which fails that row alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gloss_engine.sidecar import read_dataset_sidecar
from gloss_server.command_error import CommandError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
_HASH_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ActivationChunk:
    """Consecutive rows of a file.

    Attributes:
        start: file row of the first.
        activations: [n, width] float32.
        positions, token_ids: [n] where they were read, or None where the file does not say.
    """

    start: int
    activations: FloatArray
    positions: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None


class ActivationFile(Protocol):
    """An open file of activations.

    Attributes:
        path: the file.
        num_rows, width: its shape; width is d_model.
        layer_index: the layer it says it was read at, or None.
    """

    path: Path
    num_rows: int
    width: int
    layer_index: int | None

    def chunks(self, needed: BoolArray, chunk_rows: int) -> Iterator[ActivationChunk]:
        """Every row where `needed` [num_rows] is set, in order, at most `chunk_rows` at once."""


def open_activations(path: Path) -> ActivationFile:
    """Open a file of activations and check all of it that can be checked without a model.

    Raises:
        CommandError: no such file, another format, or rows that are no matrix of floats.
    """
    # Here, because a run on one format need not import the other's library.
    if not path.is_file():
        raise CommandError(f"{path}: got no such file, expected a .npy or .parquet file")
    if path.suffix == ".npy":
        from gloss_server.npy_file import NpyFile

        return NpyFile(path)
    if path.suffix == ".parquet":
        from gloss_server.parquet_file import ParquetFile

        return ParquetFile(path)
    raise CommandError(
        f"{path}: got suffix {path.suffix!r}, expected .npy ([n, d_model] floats) or .parquet "
        "(a column activation_vector)"
    )


def sidecar_layer(path: Path, width: int) -> int | None:
    """The layer that the sidecar beside a file states; None where there is none.

    Raises:
        CheckpointError: a sidecar that cannot be read.
        CommandError: one that states another width.
    """
    sidecar = read_dataset_sidecar(path)
    if sidecar is None:
        return None
    if sidecar.d_model != width:
        raise CommandError(
            f"{path}: got vectors of width {width}, expected {sidecar.d_model} as its sidecar "
            "says. Correct the sidecar or capture the file again"
        )
    return sidecar.layer_index


def spans(needed: BoolArray, size: int) -> Iterator[tuple[int, int]]:
    """Runs (start, stop) of set entries in order, cut into pieces of at most `size`."""
    edges = np.flatnonzero(np.diff(needed.astype(np.int8), prepend=0, append=0))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        for start in range(first, last, size):
            yield start, min(start + size, last)


def as_float32(rows: NDArray[np.generic]) -> FloatArray:
    """A float32 copy of rows; float64 beyond its range becomes infinite, which the engine says."""
    # A copy even of float32: torch warns of memory it may not write to, such as a map's.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(rows, dtype=np.float32, order="C")


def sha256(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Hash of a whole file; `on_bytes` hears how many bytes were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()
