"""Parquet files that are there whole or not at all, with vectors as fixed-size lists.

Variable-length lists have corrupted large files elsewhere, so there are none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gloss_training.errors import DiskError

UNFINISHED: Final = ".tmp"


def split_file(folder: Path, split: str) -> Path:
    """Where a split's rows stand."""
    return folder / f"{split}.parquet"


def vector_column(activations: np.ndarray) -> pa.FixedSizeListArray:
    """[n, d] float32 as fixed-size lists."""
    flat = pa.array(np.ascontiguousarray(activations, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, activations.shape[1])


def vectors_of(column: pa.ChunkedArray) -> np.ndarray:
    """[n, d] float32 of such a column."""
    width = column.type.list_size
    chunks = [chunk.flatten().to_numpy() for chunk in column.chunks]
    flat = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    return flat.astype(np.float32, copy=False).reshape(-1, width)


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], kept: str) -> int:
    """Writes tables as one file; the number of their rows.

    Args:
        path: where; what stood there before stays until the new file is whole.
        schema: of every table.
        tables: made one by one while they are written.
        kept: what is still there when the disk is full, for the message.

    Raises:
        DiskError: it could not be written.
    """
    num_rows = 0

    def write(file: Any) -> None:
        nonlocal num_rows
        vectors = [f.name for f in schema if pa.types.is_fixed_size_list(f.type)]
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in vectors],
            use_byte_stream_split=[f"{name}.list.element" for name in vectors],
        ) as writer:
            for table in tables:
                if len(table):
                    writer.write_table(table)
                    num_rows += len(table)

    write_whole(path, write, kept)
    return num_rows


def write_whole(path: Path, write: Callable[[Any], None], kept: str) -> None:
    """Has `write` fill a file under another name, then gives it its own.

    Raises:
        DiskError: it could not be written; there is no half of it.
    """
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(str(path), error, kept) from error
