"""The benchmark of RL runs small on a CPU, without pydantic and peft; its rows hold together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
# A GPU machine may lack both; what a module of None stands for cannot be imported.
WITHOUT = "import runpy, sys; sys.modules.update(pydantic=None, peft=None, tensorboard=None); "
RUN = "sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    folders = ("kernels", "server", "training", "benchmarks")
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + RUN, "benchmarks/bench_rl.py", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in folders),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a smoke run."""
    output = tmp_path_factory.mktemp("rl") / "rl.json"
    options = ("--steps", "2", "--samples", "2", "--checkpointing", "--output", str(output))
    done = _run("--smoke", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def test_rows_hold_together(smoke: dict[str, Any]) -> None:
    rows = {row["phase"]: row for row in smoke["rows"]}
    assert [*rows] == ["rollout", "ar", "av", "update", "load", "rest", "step"]
    assert smoke["responses"] == 4 and smoke["tokens"] == 4 * 122
    assert smoke["samples_per_second"] == pytest.approx(4 / rows["step"]["seconds"])
    for row in rows.values():
        assert row["seconds"] > 0 and len(row["runs"]) == 2
        assert row["share"] == pytest.approx(row["seconds"] / rows["step"]["seconds"])
    assert {name for name, row in rows.items() if row["tflops"]} == {"rollout", "ar", "av"}
    assert sum(row["share"] for row in rows.values()) == pytest.approx(2, abs=0.2)
    command = smoke["command"]
    assert command.startswith("python benchmarks/bench_rl.py --steps 2 --prompts 2 --samples 2")
    assert command.endswith("--checkpointing")


def test_it_is_the_trainers_own_step(smoke: dict[str, Any]) -> None:
    """The engine has the trainer's weights after each update: the log-probabilities agree."""
    assert len(smoke["k3"]) == 3 and all(abs(k3) < 1e-9 for k3 in smoke["k3"])
    assert smoke["lost_in_rounding"] == [0.0] * 3


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' folder can be imported from."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.usefixtures("benchmarks")
def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench_rl import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_rl.py"])
    with pytest.raises(SystemExit, match="no GPU"):
        main()


@pytest.mark.usefixtures("benchmarks")
def test_responses_end_after_as_many_tokens_as_are_told() -> None:
    from rl_case import counting_table

    table = counting_table(3, 5)
    state = 0
    for expected in (1, 2, 3, 3):
        state = int(table[state, 4])
        assert state == expected
    assert table.shape == (4, 5) and table.dtype == torch.uint8


@pytest.mark.usefixtures("benchmarks")
def test_the_work_of_a_step_is_that_of_its_products() -> None:
    """At the 7B shape: a token of the AV is 7.07e9 weights, one of the AR 21 blocks."""
    from bench_rl import teraflop
    from suite_shape import SEVEN_B

    work = teraflop(SEVEN_B, 512, "exact")
    block, vocabulary = 233_046_016, 3584 * 152_064
    assert work["rollout"] == pytest.approx(2e-12 * 512 * 120 * (28 * block + vocabulary))
    assert work["ar"] == pytest.approx(2e-12 * 512 * 133 * 21 * block * 2)
    without = teraflop(SEVEN_B, 512, "none")["av"]
    reference = 2e-12 * 512 * (145 * 28 * block + 120 * vocabulary)
    assert work["av"] - without == pytest.approx(reference)
