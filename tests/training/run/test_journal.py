"""What is written down: lines, curves, samples; and what a stage that goes on keeps of them."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gloss_training.errors import DiskError, RunFolderError
from gloss_training.learning.progress import Sample
from gloss_training.run.journal import open_journal

QUIET = Console(quiet=True)


def write(root: Path, steps: range, first: int = 0) -> None:
    with open_journal(root, "av", 6, first_step=first, console=QUIET) as journal:
        for step in steps:
            journal.step(step, {"loss": step / 2}, {"seconds": 0.5})
            if step % 2 == 0:
                text, figures = f"text\n of {step}", {"cosine": 0.5}
                journal.samples(step, [Sample(text=text, explanation="He eats.", figures=figures)])


def test_lines_curves_and_samples_are_there(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    lines = (tmp_path / "logs" / "av.jsonl").read_text().splitlines()
    assert json.loads(lines[3]) == {"step": 3, "loss": 1.5}
    curves = EventAccumulator(str(tmp_path / "tensorboard" / "av")).Reload()
    assert [event.value for event in curves.Scalars("av/loss")] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert {event.value for event in curves.Scalars("av/seconds")} == {0.5}
    page = (tmp_path / "samples" / "av.md").read_text()
    assert "## Step 4\n\n> text of 4\n\nHe eats.\n\n_cosine 0.500_" in page


def test_a_stage_that_goes_on_leaves_what_one_that_never_stopped_leaves(tmp_path: Path) -> None:
    write(tmp_path / "whole", range(6))
    write(tmp_path / "stopped", range(5))
    log = tmp_path / "stopped" / "logs" / "av.jsonl"
    log.write_text(log.read_text() + '{"step": 5, "lo')
    write(tmp_path / "stopped", range(3, 6), first=3)
    for name in ("logs/av.jsonl", "logs/av.clock.jsonl", "samples/av.md"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_stage_that_begins_again_begins_its_log_again(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    write(tmp_path, range(2))
    assert len((tmp_path / "logs" / "av.jsonl").read_text().splitlines()) == 2
    assert "Step 4" not in (tmp_path / "samples" / "av.md").read_text()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path, "av", 6, console=QUIET) as journal:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(journal._curves, "add_scalar", full)
        with pytest.raises(DiskError, match="the log of stage av .*the disk is full"):
            journal.step(0, {"loss": 1.0})


def test_a_stage_that_cannot_go_on_for_a_full_disk_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, range(6))
    files = [tmp_path / name for name in ("logs/av.jsonl", "logs/av.clock.jsonl", "samples/av.md")]
    before = [path.read_bytes() for path in files]
    written = Path.write_text

    for failing in files:

        def full(path: Path, text: str, *, failing: Path = failing, **kwargs: str) -> int:
            if path.stem != failing.stem:
                return written(path, text, **kwargs)
            written(path, "", **kwargs)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(DiskError, match="the log of stage av .*the disk is full"):
            write(tmp_path, range(0), first=6 if failing.suffix == ".jsonl" else 1)
        monkeypatch.undo()
        assert failing.read_bytes() == before[files.index(failing)]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    with (tmp_path / "logs" / "av.jsonl").open("a") as log:
        log.write("garbage\n")
    with pytest.raises(RunFolderError, match="av.jsonl: got 'garbage', expected a line a step"):
        write(tmp_path, range(3, 6), first=3)
