"""Files of activations, opened by their suffix and read in chunks of rows.

`npy_file.py` and `parquet_file.py` read the two formats. Whether a row can be explained (finite,
not zero) is for the engine, which fails that row alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from gloss_server.command_error import CommandError
from gloss_server.files.activation_chunk import ActivationChunk, BoolArray

_HASH_BLOCK_BYTES = 1 << 22


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
        from gloss_server.files.npy_file import NpyFile

        return NpyFile(path)
    if path.suffix == ".parquet":
        from gloss_server.files.parquet_file import ParquetFile

        return ParquetFile(path)
    raise CommandError(
        f"{path}: got suffix {path.suffix!r}, expected .npy ([n, d_model] floats) or .parquet "
        "(a column activation_vector)"
    )


def sha256(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Hash of a whole file; `on_bytes` hears how many bytes were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest()
