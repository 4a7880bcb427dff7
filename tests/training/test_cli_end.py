"""How the command ends where it is interrupted, and where a rank fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

from gloss_engine.errors import CheckpointError
from gloss_training import cli, command
from gloss_training.errors import RunFolderError
from gloss_training.evidence.experiment import Experiment
from gloss_training.models.sharding import Ranks
from gloss_training.stages.run import Run


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ar", "smoke"), "stopped; give the same command with --resume to go on"),
        (("evidence", "--smoke"), "stopped; give the same command again to go on"),
    ],
)
def test_an_interrupt_says_how_to_go_on(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "stages", interrupt)
    monkeypatch.setattr(Experiment, "run", interrupt)
    result = CliRunner().invoke(cli.app, [*arguments, "--output", str(tmp_path)])
    assert (result.exit_code, result.stderr.splitlines()) == (130, [said])


def test_a_file_that_cannot_be_read_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "stages/ar.json")

    monkeypatch.setattr(Run, "stages", read)
    arguments = ["ar", "smoke", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments)
    said = (
        "error: stages/ar.json: Permission denied. Nothing that was written is lost. Put that "
        "right, then give the same command with --resume to go on"
    )
    assert (result.exit_code, result.stderr.splitlines()) == (1, [said])
    result = CliRunner().invoke(cli.app, ["ar", "x" * 300, "--output", str(tmp_path)])
    assert (result.exit_code, result.stderr.count("File name too long")) == (1, 1)


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def left_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def train(run: Run, _: object) -> dict[str, dict[str, int]]:
    """A stage that draws a bar and says something."""
    with run.context.journal("ar", 3) as progress:
        for step in range(3):
            run.context.console.print("left out: a document")
            progress.step(step, {"loss": 1.0})
    return {"ar": {"rows": 3}}


@pytest.mark.parametrize("arguments", [("ar", "smoke"), ("tiny", "--smoke"), ("ar", "--help")])
@pytest.mark.parametrize(
    ("opened", "said"),
    [(full_disk, "No space left on device"), (left_pipe, "nobody reads it any more")],
)
def test_training_outlasts_its_stdout(
    opened: Callable[[], int],
    said: str,
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Run, "stages", train)
    monkeypatch.setattr(sys, "argv", ["gloss-train", *arguments, "--output", str(tmp_path)])
    with os.fdopen(opened(), "w") as lost:
        monkeypatch.setattr(sys, "stdout", lost)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert sys.stdout is lost
    assert (ended.value.code, capfd.readouterr().err) == (1, f"error: stdout: {said}\n")
    if "--help" not in arguments:
        assert len((tmp_path / "logs" / "ar.jsonl").read_text().splitlines()) == 3


def test_a_stdout_that_is_closed_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "stages", train)
    monkeypatch.setattr(sys, "argv", ["gloss-train", "ar", "smoke", "--output", str(tmp_path)])
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


@pytest.mark.parametrize("command", ["tiny", "evidence"])
def test_a_smoke_run_takes_no_other_configuration(command: str, tmp_path: Path) -> None:
    arguments = [command, "--smoke", "--config", "larger", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.app, arguments)
    said = (
        "error: --config: got larger with --smoke, which is a configuration of its own, expected "
        "one of them; leave out the other (--set goes with both)"
    )
    assert (result.exit_code, result.stderr.splitlines()) == (2, [said])
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_missing_is_told_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["data", "smoke", "--set", "device=cuda", "--dry-run", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli.app, arguments)
    said = "error: device: got 'cuda' without a GPU, expected cpu or auto; give --set device=cpu"
    assert (result.exit_code, result.stderr.splitlines()) == (2, [said])


def test_an_interrupt_of_the_imports_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = ModuleType("gloss_training.cli")
    monkeypatch.setattr(slow, "main", interrupt, raising=False)
    monkeypatch.setitem(sys.modules, "gloss_training.cli", slow)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped; nothing was begun\n")


@pytest.mark.parametrize("status", [0, 2])
def test_a_rank_leaves_with_its_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the end of Python can hang or abort in a thread of gloo."""
    left: list[int] = []

    def end() -> None:
        raise SystemExit(status)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(cli, "app", end)
    with pytest.raises(SystemExit):
        cli.main()
    assert left == [status]


def test_the_other_ranks_say_what_the_first_one_met(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def agree(ranks: Ranks, value: object) -> object:
        if ranks.is_first:
            told.append(value)
        return told[-1]

    def fail(error: Exception) -> None:
        raise error

    monkeypatch.setattr(Ranks, "agree", agree)
    first, second = (Ranks(index=index, count=2) for index in range(2))
    cut_off = CheckpointError("model", got="half", expected="all", fix="Copy it.")
    for error, kind in (
        (RunFolderError("in use"), RunFolderError),
        (cut_off, CheckpointError),
        (OSError(28, "full"), OSError),
        (UnicodeError("no text"), ValueError),
        (KeyError("name"), RuntimeError),
    ):
        with pytest.raises(type(error)):
            first.first(lambda error=error: fail(error))
        with pytest.raises(kind) as met:
            second.first(lambda: None)
        assert type(met.value) is kind
        assert str(met.value) == str(error)
        assert getattr(met.value, "errno", None) == getattr(error, "errno", None)
