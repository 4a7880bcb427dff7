"""The benchmark of fp8's cost runs, and its figures hold together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "bench_quantization.py"


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARK), "--smoke", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    output = tmp_path_factory.mktemp("bench") / "quantization.json"
    done = _run("--output", output)
    assert done.returncode == 0, done.stderr
    return {row["setting"]: row for row in json.loads(output.read_text())["rows"]}


def test_float32_beside_itself_costs_nothing(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["float32"]
    assert row["logit_error"] == row["divergence_nats"] == row["fve_cost"] == 0
    assert row["same_top_token"] == row["same_tokens"] == 1
    assert row["positions"] > 4 * 5 and row["explanations"] == row["activations"] == 12


def test_fp8_costs_what_rounding_explains(rows: dict[str, dict[str, Any]]) -> None:
    """Four trained blocks: a product of rounded rows is off by 3.7%, and so are the logits."""
    row = rows["float32 fp8"]
    assert 0.01 < row["logit_error"] < 0.1 and 0 < row["divergence_nats"] < 0.01
    assert abs(row["fve_cost"]) < 0.05 and row["ar_fve_cost"] != 0
    assert row["fve"] == pytest.approx(rows["float32"]["fve"] - row["fve_cost"])


def test_a_checkpoint_without_activations_is_refused() -> None:
    done = _run("--av", ".")
    assert done.returncode == 1 and "--av needs --activations" in done.stderr
