"""Parquet: a part file per chunk in `FILE.parquet.parts/`, then one file by an atomic rename.

A part exists whole or not at all, and covers file rows that no other part covers; so the parts in
the order of their names are the rows in order. The finished file never shows half a run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gloss_server.command_error import writing
from gloss_server.result_file import Done, foreign, lock, parts_directory
from gloss_server.result_row import SCHEMA, Row

_GROUP_ROWS = 16384
_UNFINISHED = ".tmp"


class ParquetResults:
    """See `Results` and `open_results`."""

    def __init__(self, path: Path, done: Done) -> None:
        self.path, self.done = path, done
        self._parts = parts_directory(path)
        with writing(self._parts):
            self._parts.mkdir(exist_ok=True)
            self._held = os.open(self._parts, os.O_RDONLY | os.O_CLOEXEC)
        lock(self._held, self._parts)
        self._finished = path.exists() and path.stat().st_size > 0
        with writing(self._parts):
            for leftover in self._parts.glob(f"*{_UNFINISHED}"):
                leftover.unlink()
        for file in [path] if self._finished else self._part_files():
            self._mark(file)

    def append(self, rows: list[Row]) -> None:
        """See `Results`. The rows become one part, named by the first."""
        fresh = [row for row in rows if not self.done.marks[row["index"], row["sample"]]]
        if not fresh:
            return
        first = fresh[0]
        name = f"{first['index']:012d}-{first['sample']:06d}.parquet"
        table = pa.Table.from_pylist(fresh, schema=SCHEMA)
        self._write(self._parts / name, [table])
        for row in fresh:
            self.done.mark(row["index"], row["sample"], row["error"] is not None)

    def finish(self) -> None:
        """See `Results`: the parts become the file, and are gone."""
        if not self._finished:
            self._write(self.path, map(pq.read_table, self._part_files()))
            self._finished = True
        shutil.rmtree(self._parts, ignore_errors=True)

    def close(self) -> None:
        """See `Results`."""
        os.close(self._held)

    def _part_files(self) -> list[Path]:
        return sorted(self._parts.glob("*.parquet"))

    def _write(self, target: Path, tables: Iterable[pa.Table]) -> None:
        """Write a file whole under another name, then give it its own."""
        unfinished = self._parts / f"{target.name}{_UNFINISHED}"
        with writing(target):
            try:
                _write_groups(unfinished, tables)
                os.replace(unfinished, target)
                _sync_directory(target.parent)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise

    def _mark(self, file: Path) -> None:
        try:
            table = pq.read_table(file, columns=["index", "sample", "error"])
            failed = pc.is_valid(table["error"]).to_pylist()
            places = zip(table["index"].to_pylist(), table["sample"].to_pylist(), strict=True)
            known = all(
                self.done.mark(index, sample, fail)
                for (index, sample), fail in zip(places, failed, strict=True)
            )
        except (pa.ArrowException, KeyError, OSError):
            known = False
        if not known:
            os.close(self._held)
            raise foreign(file, "its contents")


def _write_groups(path: Path, tables: Iterable[pa.Table]) -> None:
    """Tables into one file, in row groups worth reading, flushed to the disk."""
    with path.open("wb") as file:
        with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
            held: list[pa.Table] = []
            for table in tables:
                held.append(table)
                if sum(map(len, held)) >= _GROUP_ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held))
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename last through a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
