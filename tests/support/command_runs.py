"""How a command ended and what it wrote, as tests of the commands read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of a refused command."""
        lines = self.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), self.stderr
        assert self.stdout == ""
        return lines[0]


Command = Callable[..., Ended]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL output, in the order of the file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSON lines; the path again."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def in_order(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by index and sample."""
    return sorted(rows, key=lambda row: (row["index"], row["sample"]))


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether rows are those of another run; sums over other batches differ in the last bits."""
    assert [(r["index"], r["sample"]) for r in rows] == [
        (e["index"], e["sample"]) for e in expected
    ]
    for row, other in zip(rows, expected, strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[key], abs=1e-3)
            else:
                assert value == other[key], key
    return True
