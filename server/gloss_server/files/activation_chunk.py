"""What both formats of activation files share: chunks of rows, how rows are picked and read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gloss_engine.sidecar import read_dataset_sidecar
from gloss_server.command_error import CommandError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


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
