"""Runs that are killed: ten steps are five, kill -9 and five more, whatever the kill met."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from safetensors import safe_open

from gloss_training.storage import checkpoints
from support.training_process import Death, gloss_train

SETTINGS = [f"{stage}.{key}" for stage in ("ar", "av") for key in ("num_steps=10",)]


def arguments(stage: str, root: Path, every: int, *more: str) -> list[str]:
    overrides = [*SETTINGS, f"{stage}.checkpoint_every={every}"]
    flags = [word for override in overrides for word in ("--set", override)]
    return [stage, "smoke", "--output", str(root), *flags, *more]


def what_it_leaves(root: Path, stage: str) -> dict[str, bytes]:
    files = [*(root / stage).glob("*.safetensors"), root / "logs" / f"{stage}.jsonl"]
    files += (root / "samples").glob(f"{stage}.md")
    assert len(files) > (2 if stage == "av" else 1)
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its data, to be copied."""
    root = tmp_path_factory.mktemp("prepared")
    ended = gloss_train(["data", "smoke", "--output", root / "run"], root / "log")
    assert ended.status == 0, ended.output
    return root / "run"


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What ar and av are when nothing stops them."""
    root = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(prepared, root)
    for stage in ("ar", "av"):
        ended = gloss_train(arguments(stage, root, 100), root / "log")
        assert ended.status == 0, ended.output
    return {stage: what_it_leaves(root, stage) for stage in ("ar", "av")}


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("stage", ["ar", "av"])
def test_ten_steps_are_five_a_kill_and_five_more(
    stage: str, root: Path, whole: dict[str, dict[str, bytes]]
) -> None:
    command = arguments(stage, root, 5)
    ended = gloss_train(command, root / "log", death=Death(call="step", number=8))
    assert ended.status == -signal.SIGKILL
    newest = checkpoints.latest(root / "checkpoints" / stage)
    assert newest is not None and newest.name == "step-00000005"
    with safe_open(newest / "tensors.safetensors", "pt") as file:
        names = list(file.keys())
    kinds = {name.split("/")[1].partition(".")[0] for name in names}
    assert {"master", "step", "exp_avg", "exp_avg_sq", "cpu"} <= kinds
    refused = gloss_train(command, root / "log")
    assert refused.status == 2
    assert "step-00000005; give --resume" in refused.output
    resumed = gloss_train([*command, "--resume"], root / "log")
    assert resumed.status == 0, resumed.output
    assert what_it_leaves(root, stage) == whole[stage]
    assert not (root / "checkpoints" / stage).exists()


@pytest.mark.parametrize(
    "death",
    [
        Death(call="save_file", number=3),
        Death(call="save_file", number=3, is_after=True),
        Death(call="fsync", number=12),
        Death(call="rename", number=4),
        Death(call="rename", number=4, is_after=True),
        Death(call="rename", number=7, is_after=True),
        Death(call="rmtree", number=2),
    ],
    ids=lambda death: f"{'after' if death.is_after else 'before'}-{death.call}-{death.number}",
)
def test_a_kill_during_a_save_loses_no_checkpoint(
    death: Death, root: Path, whole: dict[str, dict[str, bytes]]
) -> None:
    command = arguments("ar", root, 1)
    ended = gloss_train(command, root / "log", death=death)
    assert ended.status == -signal.SIGKILL, ended.output
    step = checkpoints.latest_step(root / "checkpoints" / "ar")
    assert 0 < step < 10
    resumed = gloss_train([*command, "--resume"], root / "log")
    assert resumed.status == 0, resumed.output
    assert what_it_leaves(root, "ar") == whole["ar"]


def test_a_full_disk_loses_nothing_and_says_what_to_do(
    root: Path, whole: dict[str, dict[str, bytes]]
) -> None:
    command = arguments("ar", root, 2)
    ended = gloss_train(command, root / "log", death=Death(call="step", number=4))
    assert ended.status == -signal.SIGKILL
    newest = checkpoints.latest(root / "checkpoints" / "ar")
    assert newest is not None
    kept = {path.name: path.read_bytes() for path in newest.iterdir()}
    data = {path.name: path.read_bytes() for path in (root / "data").glob("*.parquet")}
    small = (newest / "tensors.safetensors").stat().st_size // 2
    full = gloss_train([*command, "--resume"], root / "log", max_file_bytes=small)
    assert full.status == 1
    for said in ("could not be written", newest.name, "is whole", "Make room", "--resume"):
        assert said in full.output
    assert "Traceback" not in full.output
    assert {path.name: path.read_bytes() for path in newest.iterdir()} == kept
    assert {path.name: path.read_bytes() for path in (root / "data").glob("*.parquet")} == data
    assert [path.name for path in newest.parent.iterdir()] == [newest.name]
    resumed = gloss_train([*command, "--resume"], root / "log")
    assert resumed.status == 0, resumed.output
    assert what_it_leaves(root, "ar") == whole["ar"]
