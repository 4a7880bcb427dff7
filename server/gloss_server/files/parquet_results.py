"""Parquet output of `gloss verbalize`: a part file per chunk, then one file (`parquet_parts.py`).

A part covers file rows that no other part covers and is named by the first of them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gloss_server.files.output_file import foreign
from gloss_server.files.parquet_parts import ParquetParts
from gloss_server.files.result_progress import Done
from gloss_server.files.result_row import Row
from gloss_server.files.result_schema import SCHEMA

_GROUP_ROWS = 16384


class ParquetResults:
    """See `Results` and `open_results`."""

    def __init__(self, path: Path, done: Done) -> None:
        self.path, self.done = path, done
        self._parts = ParquetParts(path)
        for file in [path] if self._parts.is_finished else self._parts.files():
            if not self._mark(file):
                self._parts.close()
                raise foreign(path, f"{file.name} holds no rows")

    def append(self, rows: list[Row]) -> None:
        """See `Results`. The rows become one part, named by the first."""
        fresh = [row for row in rows if not self.done.marks[row["index"], row["sample"]]]
        if not fresh:
            return
        name = f"{fresh[0]['index']:012d}-{fresh[0]['sample']:06d}"
        self._parts.add(name, pa.Table.from_pylist(fresh, schema=SCHEMA))
        for row in fresh:
            self.done.mark(row["index"], row["sample"], row["error"] is not None, row["fve"])

    def finish(self) -> None:
        """See `Results`: the parts become the file, and are gone."""
        self._parts.join(_GROUP_ROWS)

    def close(self) -> None:
        """See `Results`."""
        self._parts.close()

    def _mark(self, file: Path) -> bool:
        """Note the explanations of a file; False where they are not of this run."""
        try:
            table = pq.read_table(file, columns=["index", "sample", "error", "fve"])
            failed = pc.is_valid(table["error"]).to_pylist()
            columns = (table[name].to_pylist() for name in ("index", "sample"))
            rows = zip(*columns, failed, table["fve"].to_pylist(), strict=True)
            return all(self.done.mark(*row) for row in rows)
        except (pa.ArrowException, KeyError, OSError):
            return False
