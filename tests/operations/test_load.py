"""The load tests run, small, and their figures hold together. How large they are is not looked at:
that is for a machine that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PNG = b"\x89PNG\r\n"


def _run(name: str, output: Path) -> tuple[str, dict[str, Any]]:
    """What a smoke run printed, and the result that it wrote."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--smoke", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())


def test_a_sweep_gives_a_row_a_rate_and_plots(tmp_path: Path) -> None:
    printed, result = _run("load_sweep.py", tmp_path / "load.json")
    (row,) = result["rows"]
    assert len(result["rounds"]) == result["settings"]["rounds"] == 2
    assert row["calls"] == sum(one["calls"] for one in result["rounds"]) > 0
    assert row["offered"] == pytest.approx(row["calls"] / 4.0)
    assert row["good"] + row["late"] + row["refused"] + row["expired"] + row[
        "failed"
    ] == pytest.approx(1)
    assert row["goodput"] > 0 and row["failed"] == 0
    assert 0 < row["call_p50"] <= row["call_p95"] <= row["call_p99"]
    assert row["queue_p50"] is not None and row["step_p50"] > 0
    assert 0 <= row["wasted"] < 1
    assert 0 < row["generator"] < 1.2 and row["engine"] > 0 and row["lag_p99"] >= 0
    assert result["settings"]["objectives"] == {
        "end_to_end": 2.0,
        "first_token": 0.25,
        "refusal": 0.05,
    }
    assert result["verdict"]["peak_goodput"] == row["goodput"]
    assert "peak_goodput" in printed and printed.startswith("fraction")
    for plot in ("load_latency.png", "load_goodput.png"):
        assert (tmp_path / plot).read_bytes().startswith(PNG)


def test_a_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    _, result = _run("soak.py", tmp_path / "soak.json")
    assert result["failures"] == []
    assert result["calls"] == sum(row["calls"] for row in result["rows"]) > 0
    assert result["calls"] == result["generator"]["calls"]
    assert result["faults"]["slow reader: SLOW_READER"] > 0
    assert all(slope is not None for slope in result["slope_mib_per_minute"].values())
    looks = len(result["samples"]["at"])
    assert looks > 2
    assert {len(values) for values in result["samples"].values()} == {looks}
    assert (tmp_path / "soak.png").read_bytes().startswith(PNG)
