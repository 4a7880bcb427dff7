"""The benchmark of the service runs, and its figures hold together. How large they are is not
looked at: that is for a machine that does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_grpc.py"
Row = dict[str, str]


@pytest.fixture(scope="module")
def tables() -> list[list[Row]]:
    """The tables of a smoke run, as rows of cells by column."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--smoke"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = []
    for lines in done.stdout.split("\n\n"):
        header, *rows = (line.split() for line in lines.splitlines() if line)
        found.append([dict(zip(header, _cells(row), strict=True)) for row in rows])
    return found


def _cells(words: list[str]) -> list[str]:
    """`in process` is one cell."""
    return ["in process", *words[2:]] if words[:2] == ["in", "process"] else words


def test_service_beside_the_engine(tables: list[list[Row]]) -> None:
    service = tables[0]
    assert [row["call"] for row in service] == ["in process", "unary", "stream"] * 2
    for row in service:
        assert float(row["per_second"]) > 0
        assert 0 < float(row["call_p50"]) <= float(row["call_p95"])
        assert float(row["engine_ms"]) > 0
    for row in service[1:3] + service[4:]:
        assert float(row["ratio"]) > 0
        assert float(row["same_texts"]) == 1
        assert 0 < float(row["client_cpu"]) < 1.1
        assert row["limit"] in ("client", "front", "cores", "engine", "none")
    for row in service:
        if row["call"] != "unary":
            assert 0 < float(row["first_p50"]) < float(row["call_p50"])


def test_streams_send_several_messages_and_unary_calls_one(tables: list[list[Row]]) -> None:
    unary, stream, unary_batch, stream_batch = (
        row for row in tables[0] if row["call"] != "in process"
    )
    assert float(unary["messages"]) == 1 and float(unary_batch["messages"]) == 0.25
    assert float(stream["messages"]) > float(stream_batch["messages"]) > 1


def test_front_alone(tables: list[list[Row]]) -> None:
    (row,) = tables[1]
    # 8 in flight of 24 tokens at 7 ms: the fake engine's pace is the limit, whatever the machine.
    assert 0 < float(row["achieved"]) <= 1.25 * float(row["offered"])
    assert 2 < float(row["messages"]) <= 24 + 2
    assert float(row["core_at_300"]) == pytest.approx(0.3 * float(row["front_ms"]), rel=0.02)
    assert 0 < float(row["first_p50"]) <= float(row["first_p95"])
    assert 0 < float(row["gap_p50"]) <= float(row["gap_p95"])
