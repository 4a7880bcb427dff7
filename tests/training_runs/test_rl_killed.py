"""Ten RL steps are five, kill -9 and five more: both models, both optimizers, rows and draws."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from gloss_training.storage import checkpoints
from support.rl_process import Death, ten_steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert ten_steps(folder) == 0
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def assert_whole(newest: Path) -> None:
    """Both models, both optimizers and the random state are in a checkpoint."""
    names = checkpoints.load(newest).tensors.keys()
    for model in ("av", "ar"):
        kinds = {name.split("/")[1].split(".")[0] for name in names if name.startswith(model)}
        assert kinds == {"master", "step", "exp_avg", "exp_avg_sq"}
    assert "random/cpu" in names


@pytest.mark.parametrize(
    ("death", "goes_on_at", "died_after"),
    [
        (Death(at_step=7), 5, 7),
        # The first checkpoint is nearly there: nothing is, and the run begins again.
        (Death(in_save=5), 0, 4),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(
    whole: Path, tmp_path: Path, death: Death, goes_on_at: int, died_after: int
) -> None:
    assert ten_steps(tmp_path, death) == -signal.SIGKILL
    folder = tmp_path / "checkpoints"
    assert checkpoints.latest_step(folder) == goes_on_at
    newest = checkpoints.latest(folder)
    if newest is not None:
        assert_whole(newest)
    assert not (tmp_path / "digest").exists()
    assert ten_steps(tmp_path) == 0
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == [*range(died_after + 1), *range(goes_on_at, 10)]
    assert lines(tmp_path)[-(10 - goes_on_at) :] == lines(whole)[goes_on_at:]
    assert (tmp_path / "digest").read_text() == (whole / "digest").read_text()
    assert sum(line["skipped"] for line in lines(whole)) == 0
