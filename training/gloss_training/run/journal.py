"""Writes down what a stage tells: JSONL, tensorboard, samples to read, a bar with the time left.

    logs/<stage>.jsonl         a line a step; equal runs, equal bytes
    logs/<stage>.clock.jsonl   what the steps took
    tensorboard/<stage>/       both, as curves
    samples/<stage>.md         explanations to read

A stage that goes on at step n keeps the lines before n and writes the rest anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from gloss_training.learning.progress import Sample
from gloss_training.run.progress_bar import progress_bar
from gloss_training.storage.disk import writing_of_stage
from gloss_training.storage.step_lines import lines_before

_KEPT = "Checkpoints and finished stages are whole."
_SHOWN = ("loss", "reward", "fve", "kl", "failure_rate")
_HEADING = re.compile(r"^## Step (\d+)$", re.MULTILINE)


class Journal:
    """A stage's `Progress` (progress.py) on disk and on the terminal. Use `open_journal`."""

    def __init__(self, root: Path, stage: str, bar: Progress, num_steps: int, first: int) -> None:
        self._stage, self._bar = stage, bar
        self._samples_path = root / "samples" / f"{stage}.md"
        with self._writing("the log"), ExitStack() as stack:
            self._lines = stack.enter_context(_continued(root / "logs" / f"{stage}.jsonl", first))
            clock = root / "logs" / f"{stage}.clock.jsonl"
            self._clock = stack.enter_context(_continued(clock, first))
            folder = root / "tensorboard" / stage
            self._curves = SummaryWriter(str(folder), purge_step=first)
            stack.callback(self._curves.close)
            _cut_samples(self._samples_path, first)
            self._open = stack.pop_all()
        self._task = bar.add_task(stage, total=num_steps, completed=first, figures="")

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        """See `progress.Progress`."""
        with self._writing("the log"):
            self._lines.write(json.dumps({"step": index, **figures}) + "\n")
            self._lines.flush()
            if clock:
                self._clock.write(json.dumps({"step": index, **clock}) + "\n")
                self._clock.flush()
            for name, value in {**figures, **(clock or {})}.items():
                self._curves.add_scalar(f"{self._stage}/{name}", value, index)
        shown = "  ".join(f"{name} {figures[name]:.4f}" for name in _SHOWN if name in figures)
        self._bar.update(self._task, completed=index + 1, figures=shown)

    def samples(self, index: int, samples: Sequence[Sample]) -> None:
        """See `progress.Progress`."""
        parts = [f"## Step {index}\n"]
        for sample in samples:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in sample.figures.items())
            text = " ".join(sample.text.split())
            parts.append(f"> {text}\n\n{sample.explanation}\n")
            if figures:
                parts.append(f"_{figures}_\n")
        with self._writing("samples"):
            self._samples_path.parent.mkdir(parents=True, exist_ok=True)
            with self._samples_path.open("a", encoding="utf-8") as file:
                file.write("\n".join(parts) + "\n")
            self._curves.add_text(self._stage, "\n".join(parts), index)

    def close(self) -> None:
        """Ends the files."""
        with self._writing("the log"):
            self._open.close()

    def _writing(self, what: str) -> AbstractContextManager[None]:
        return writing_of_stage(f"{what} of stage {self._stage}", _KEPT)


@contextmanager
def open_journal(
    root: Path, stage: str, num_steps: int, *, first_step: int = 0, console: Console | None = None
) -> Iterator[Journal]:
    """The journal of a stage of the run at `root`, which goes on at `first_step`."""
    with progress_bar(console, TextColumn("{task.fields[figures]}")) as bar:
        journal = Journal(root, stage, bar, num_steps, first_step)
        try:
            yield journal
        finally:
            journal.close()


def _continued(path: Path, first_step: int) -> TextIO:
    """A JSONL file with the lines of the steps before `first_step`, open at its end."""
    kept = lines_before(path, first_step)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, "".join(kept))
    return path.open("a", encoding="utf-8")


def _cut_samples(path: Path, first_step: int) -> None:
    """Leaves the samples of the steps before `first_step`."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    late = [match for match in _HEADING.finditer(text) if int(match.group(1)) >= first_step]
    if late:
        _replace(path, text[: late[0].start()])


def _replace(path: Path, text: str) -> None:
    """Has a file hold something else, in one step: on a full disk the old one stays."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
