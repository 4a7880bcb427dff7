"""Reading inputs: parquet opened to be streamed, and the one line for what cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gloss_server.command_error import CommandError

_READ_BYTES = 1 << 20


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file to be streamed; to be called in `reading`."""
    # The defaults hold a row group at least, or all of them: 830 MiB for an 800 MB file, against
    # 52 MiB with these.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turns a failed read of an input into a CommandError.

    Args:
        path: the input, of whatever format.
        expected: what should be in it, as in "one with a column text".
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise CommandError(
            f"{path}: got no readable {path.suffix.removeprefix('.')} file ({error}), expected "
            f"{expected}"
        ) from error
