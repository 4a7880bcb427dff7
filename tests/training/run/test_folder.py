"""What a run's directory keeps, refuses, takes with other settings, and says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gloss_training.errors import RunFolderError
from gloss_training.models.sharding import Ranks
from gloss_training.run import stage_clock
from gloss_training.run.config import read_config
from gloss_training.run.folder import RunFolder
from gloss_training.run.lock import run_lock

EVERY = ("target", "data", "ar", "av", "rl", "evaluate")


def folder_of(root: Path, *overrides: str) -> RunFolder:
    return RunFolder(root, read_config("smoke", overrides).plain())


def finish(root: Path, *stages: str, overrides: tuple[str, ...] = ()) -> None:
    for stage in stages:
        folder_of(root, *overrides).stage(stage, lambda: {}, resume=False)


def stop(
    root: Path, stage: str, leaving: Callable[[], object] = lambda: None, *overrides: str
) -> None:
    """Begins a stage that fails once it has left something."""

    def fail() -> dict[str, Any]:
        leaving()
        raise InterruptedError

    with pytest.raises(InterruptedError):
        folder_of(root, *overrides).stage(stage, fail, resume=True)


def checkpoint(root: Path, stage: str, step: int = 2) -> None:
    (root / "checkpoints" / stage / f"step-{step:08d}").mkdir(parents=True)


def test_an_evaluation_before_rl_is_not_taken_for_one_after_it(tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    assert folder_of(tmp_path).stage("evaluate", lambda: {"pair": "sft"}, resume=False)
    checkpoint(tmp_path, "evaluate/rl")
    finish(tmp_path, "rl")
    folder = folder_of(tmp_path)
    assert not folder.is_finished("evaluate")
    assert not folder.checkpoints("evaluate").exists()
    assert folder.stage("evaluate", lambda: {"pair": "rl"}, resume=False)["pair"] == "rl"
    assert folder.stage("evaluate", lambda: {"pair": "again"}, resume=False)["pair"] == "rl"


def test_an_evaluation_is_made_anew_with_other_settings(tmp_path: Path) -> None:
    finish(tmp_path, *EVERY)
    changed = folder_of(tmp_path, "evaluate.num_rows=5")
    checkpoint(tmp_path, "evaluate/rl")
    assert changed.stage("evaluate", lambda: {"rows": 5}, resume=False)["rows"] == 5
    assert not changed.checkpoints("evaluate").exists()
    again = folder_of(tmp_path, "evaluate.num_rows=5")
    assert again.stage("evaluate", lambda: {"rows": 0}, resume=False)["rows"] == 5


@pytest.mark.parametrize("stage", ["target", "ar", "rl"])
def test_a_stage_that_left_nothing_holds_nobody_to_its_settings(stage: str, tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[: EVERY.index(stage)])
    section = "world.training" if stage == "target" else stage
    other = f"{section}.num_steps=77"
    stop(tmp_path, stage)
    folder_of(tmp_path, other)
    stop(tmp_path, stage, lambda: checkpoint(tmp_path, stage))
    refused = (
        rf"stage {stage} .*num_steps: \d+ -> 77.*remove .*{stage}.settings.json and "
        rf".*checkpoints/{stage} to begin"
    )
    with pytest.raises(RunFolderError, match=refused):
        folder_of(tmp_path, other)


@pytest.mark.parametrize("left", ["captured/000000-av-0.parquet", "answers.jsonl"])
def test_data_that_captured_or_asked_nothing_takes_other_settings(
    left: str, tmp_path: Path
) -> None:
    finish(tmp_path, "target")
    file = tmp_path / "data" / left

    def opened() -> None:
        (tmp_path / "data" / "captured").mkdir(parents=True)
        (tmp_path / "data" / "answers.jsonl").touch()

    stop(tmp_path, "data", opened)
    folder_of(tmp_path, "data.positions_per_document=3")
    file.write_text("something")
    with pytest.raises(RunFolderError, match=r"stage data .*positions_per_document: \d+ -> 3"):
        folder_of(tmp_path, "data.positions_per_document=3")
    # Answers are kept by who gave them.
    another = ("teacher.provider=openai", "teacher.model=other", "teacher.max_tokens=500")
    finish(tmp_path, "data", overrides=another)
    with pytest.raises(RunFolderError, match=r"stage data .*teacher\.model: other -> third"):
        folder_of(tmp_path, *another, "teacher.model=third")


def test_how_much_room_checkpoints_take_may_change_in_a_stopped_stage(tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    stop(tmp_path, "rl", lambda: checkpoint(tmp_path, "rl"))
    changed = [
        *("rl.keep_checkpoints=1", "rl.checkpoint_every=50", "rl.max_skipped=3"),
        *("av.keep_checkpoints=1", "world.training.keep_checkpoints=1", "sharding.timeout_s=5.0"),
    ]
    folder_of(tmp_path, *changed).stage("rl", lambda: {}, resume=True)


def test_a_stopped_stage_goes_on_in_less_memory(tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    stop(tmp_path, "rl", lambda: checkpoint(tmp_path, "rl"))
    changed = ("rl.micro_batch=3", "rl.vocabulary_chunk=64", "rl.gradient_checkpointing=true")
    folder = folder_of(tmp_path, *changed, "av.micro_batch=2", "ar.gradient_checkpointing=true")
    folder.stage("rl", lambda: {}, resume=True)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_stage_is_held_to_the_judge_that_it_asks(weight: float, tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    given = (f"rl.reward.judge={weight}", "judge.provider=openai", "judge.model=one")
    stop(tmp_path, "rl", lambda: checkpoint(tmp_path, "rl"), *given)
    folder_of(tmp_path, *given, "judge.concurrency=2")
    if not weight:
        folder_of(tmp_path, *given, "judge.model=two")
        return
    with pytest.raises(RunFolderError, match=r"stage rl .*judge\.model: one -> two"):
        folder_of(tmp_path, *given, "judge.model=two")


def test_the_earliest_missing_stage_is_named_by_its_command(tmp_path: Path) -> None:
    for finished, command in (((), "data"), (("target",), "data"), (("data",), "ar")):
        finish(tmp_path, *finished)
        with pytest.raises(RunFolderError, match=f"run gloss-train {command} on it first"):
            folder_of(tmp_path).stage("rl", lambda: {}, resume=False)
    assert not [*(tmp_path / "stages").glob("rl*")]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    finish(tmp_path, "target")
    with run_lock(tmp_path):
        with pytest.raises(RunFolderError, match="another process is working on"):
            folder_of(tmp_path).stage("data", lambda: {}, resume=True)
        # What is finished can be looked at.
        folder_of(tmp_path).stage("target", lambda: {}, resume=False)
    finish(tmp_path, "data")


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="got a file, expected a run's directory"):
        folder_of(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["data/av.parquet", "rl/av/model.safetensors", "logs/av.jsonl", "judgements.jsonl"]
)
def test_what_no_run_has_made_is_not_written_over(name: str, tmp_path: Path) -> None:
    foreign = tmp_path / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text("mine")
    with pytest.raises(RunFolderError, match="which no run has put there, expected a run's"):
        folder_of(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [foreign]


@pytest.mark.parametrize(
    "name", ["mine.toml", "logs/job.out", "tensorboard/av/events", "data/", "stages/data.json"]
)
def test_a_run_begins_beside_other_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("{}")
    finish(tmp_path, "target")


def test_a_first_start_that_was_killed_at_once_can_begin_again(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        pass
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "half").touch()
    finish(tmp_path, "target")


@pytest.mark.parametrize("stage", ["data", "ar", "evaluate"])
def test_seconds_are_those_of_all_its_processes(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_clock, "EVERY_SECONDS", 0.001)
    finish(tmp_path, *EVERY[: EVERY.index(stage)])
    clock = tmp_path / "stages" / f"{stage}.clock.json"

    def leaving() -> None:
        if stage == "data":
            (tmp_path / "data").mkdir()
            (tmp_path / "data" / "answers.jsonl").write_text("something")
        if stage == "ar":
            checkpoint(tmp_path, stage)
        # They are there while it works: a kill gives no time to write them.
        while not clock.exists() or not json.loads(clock.read_text())["seconds"] > 0.01:
            time.sleep(0.001)

    stop(tmp_path, stage, leaving)
    for seconds in (40.0, 900.0):
        clock.write_text(json.dumps({"seconds": seconds}))
        stop(tmp_path, stage)
        assert json.loads(clock.read_text())["seconds"] // 1 == seconds
    assert folder_of(tmp_path).stage(stage, lambda: {}, resume=True)["seconds"] // 1 == 900
    assert not clock.exists()


def test_a_stage_that_begins_anew_begins_its_seconds_too(tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    for stage in ("rl", "evaluate"):
        stop(tmp_path, stage)
        for torn in (json.dumps({"seconds": 900}), ""):
            (tmp_path / "stages" / f"{stage}.clock.json").write_text(torn)
            again = folder_of(tmp_path, "evaluate.num_rows=5" if torn else "evaluate.num_rows=6")
            assert again.stage(stage, lambda: {}, resume=True)["seconds"] < 900
            (tmp_path / "stages" / f"{stage}.json").unlink()


def test_whether_a_stage_is_finished_is_the_first_ranks_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may finish it between the ranks' looks: no rank goes on without the first one."""
    words: list[object] = []

    def agree(_: Ranks, value: object) -> object:
        words.append(value)
        return False if len(words) == 1 else None

    run_folder = RunFolder(tmp_path, {}, Ranks(index=1, count=2))
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "target.json").write_text('{"seconds": 1.0}')
    monkeypatch.setattr(Ranks, "agree", agree)
    assert run_folder.stage("target", lambda: {}, resume=False) == {"seconds": 1.0}
    # The second word is the first rank's about the lock.
    assert words == [True, None]


@pytest.mark.parametrize("contents", ["", "[]", "{}", '{"seconds": 1'])
@pytest.mark.parametrize("name", ["ar.json", "ar.settings.json"])
def test_a_damaged_record_is_named(name: str, contents: str, tmp_path: Path) -> None:
    finish(tmp_path, *EVERY[:4])
    (tmp_path / "stages" / name).write_text(contents)
    with pytest.raises(RunFolderError, match=rf"{name}: got a damaged file, expected .*; \w"):
        folder_of(tmp_path).record("ar")
