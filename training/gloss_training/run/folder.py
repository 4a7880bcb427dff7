"""A run's directory: its configuration, which stages are finished, and where everything stands.

    configuration.json                  the newest settings
    run.lock                            held by the process that works here
    stages/<stage>.json                 record of a finished stage: its figures, what it took
    stages/<stage>.settings.json        the settings that a stage was begun with
    stages/<stage>.clock.json           of a stage that is not finished: what it took so far
    checkpoints/<stage>/step-.../       to go on from, within a stage
    logs/ tensorboard/ samples/         see journal.py
    target/ data/ av/ ar/ rl/{av,ar}/   what the stages make
    evaluation/{sft,rl}.json            what evaluation found, with samples beside it

A stage's record is written last and in one step, so a stage that was cut off runs again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

from gloss_training.capture.parts import CAPTURED
from gloss_training.errors import RunFolderError
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.run.lock import LOCK_FILE, run_lock
from gloss_training.run.stage_clock import StageClock
from gloss_training.run.stage_settings import SECTIONS, changes, settings_of
from gloss_training.storage import checkpoints
from gloss_training.storage.disk import writing
from gloss_training.teachers.answer_file import ANSWERS_FILE

_BEFORE: Final[Mapping[str, tuple[str, ...]]] = {
    "target": (),
    "data": ("target",),
    "ar": ("target", "data"),
    "av": ("target", "data"),
    "rl": ("target", "data", "ar", "av"),
    "evaluate": ("target", "data", "ar", "av"),
}
"""What has to be finished before a stage; there is a stage target in the tiny world only."""
_EVALUATED: Final = ("ar", "av", "rl")
"""Stages whose pair is evaluated: once one of them is made anew, so is the evaluation."""
_RECORDS: Final = (LOCK_FILE, "configuration.json", "stages/*.json")
"""What makes a directory a run's. The lock comes before all else that a stage leaves, and stays."""
_WRITTEN: Final = (
    *("target/*", "data/*", "ar/*", "av/*", "rl/*", "adapters/*", "checkpoints/*", "evaluation/*"),
    *("logs/*.jsonl", "samples/*.md", "judgements.jsonl", "rewordings.jsonl"),
)
"""What stages write over. Other files may lie beside them."""


class RunFolder:
    """The directory of one run.

    Args:
        root: made with the first stage if it is not there.
        configuration: the run's settings, as plain values.
        ranks: processes that work on it; the first one writes.

    Raises:
        RunFolderError: a stage that was begun there read other settings, it is no directory, or
            it holds what no run has put there and a stage would write over.
    """

    def __init__(self, root: Path, configuration: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        self.root = root
        self._ranks = ranks
        self._configuration = dict(configuration)
        self._clock: StageClock | None = None
        if root.exists() and not root.is_dir():
            raise RunFolderError(f"{root}: got a file, expected a run's directory; name another")
        _refuse_foreign(root)
        for stage in SECTIONS:
            if stage != "evaluate" and self._has_begun(stage):
                self._compare(stage)

    @property
    def data(self) -> Path:
        """Where the activations are."""
        return self.root / "data"

    @property
    def target(self) -> Path:
        """Where the tiny world's target is."""
        return self.root / "target"

    @property
    def pair(self) -> Path:
        """Where `av` and `ar` of the last finished stage are: of rl, else of ar and av.

        Raises:
            RunFolderError: there is no pair yet.
        """
        if self.is_finished("rl"):
            return self.root / "rl"
        for stage in ("ar", "av"):
            self.record(stage)
        return self.root

    def checkpoints(self, stage: str) -> Path:
        """Where a stage's checkpoints are."""
        return self.root / "checkpoints" / stage

    def record(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage.

        Raises:
            RunFolderError: it is not finished, or its record is damaged.
        """
        path = self._record_path(stage)
        if not path.exists():
            command = "data" if stage == "target" else stage
            raise RunFolderError(
                f"{self.root} has not finished stage {stage}; run gloss-train {command} on it first"
            )
        return read_json(path, f"remove it to have stage {stage} made again")

    def is_finished(self, stage: str) -> bool:
        """Whether a stage has its record."""
        return self._record_path(stage).exists()

    def stage(
        self, stage: str, work: Callable[[], dict[str, Any]], *, resume: bool
    ) -> dict[str, Any]:
        """Runs `work` unless the stage is finished; its figures, with the seconds it took in all.

        An evaluation, which nothing reads, is made anew where other settings are asked for.

        Args:
            stage: one of SECTIONS.
            work: makes all of the stage's files, from the newest checkpoint where there is one.
            resume: whether it may.

        Raises:
            RunFolderError: a stage before it is not finished, another process works here, or there
                are checkpoints and `resume` was not asked for.
        """
        # The first one's word: what others see may have been finished by another run since.
        if self._ranks.agree(self._is_kept(stage)):
            return self.record(stage)
        with ExitStack() as held:
            self._ranks.first(lambda: held.enter_context(run_lock(self.root)))
            # The process that held it may have finished the stage.
            if self._is_kept(stage):
                return self.record(stage)
            self._begin(stage, resume)
            # An evaluation has no checkpoint of its own; one of something else is forgotten.
            goes_on = stage == "evaluate" or self._has_begun(stage)
            clock = self._clock = StageClock(self._clock_path(stage), goes_on=goes_on)
            with clock.kept() if self._ranks.is_first else nullcontext():
                figures = work()
            record = {"seconds": round(clock.seconds, 1), **figures}
            self._ranks.first(lambda: self._finish(stage, record))
        return record

    def waiting(self) -> AbstractContextManager[None]:
        """While a person is asked: no part of the seconds of the stage that is being made."""
        return nullcontext() if self._clock is None else self._clock.paused()

    def _begin(self, stage: str, resume: bool) -> None:
        """Refuses what cannot be begun; keeps the settings that it is begun with."""
        for before in _BEFORE[stage]:
            if before != "target" or self._configuration.get("world") is not None:
                self.record(before)
        newest = checkpoints.latest(self.checkpoints(stage))
        if newest is not None and not resume:
            raise RunFolderError(
                f"{self.root} was stopped in stage {stage} and has its {newest.name}; give "
                f"--resume to go on from there, or remove {newest.parent} to begin the stage again"
            )
        if stage == "evaluate" and self._changes(stage):
            self._forget_evaluation()
        self._ranks.first(lambda: self._write_settings(stage))

    def _write_settings(self, stage: str) -> None:
        write_json(self.root / "configuration.json", self._configuration)
        write_json(self._settings_path(stage), settings_of(stage, self._configuration))

    def _finish(self, stage: str, record: dict[str, Any]) -> None:
        """Its record comes last, so a stage that is stopped before it runs again."""
        if stage in _EVALUATED:
            self._forget_evaluation()
        write_json(self._record_path(stage), record)
        self._clock_path(stage).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    def _forget_evaluation(self) -> None:
        """Lets the next evaluation begin anew: the one that is there is of something else."""
        self._record_path("evaluate").unlink(missing_ok=True)
        self._clock_path("evaluate").unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints("evaluate"), ignore_errors=True)

    def _is_kept(self, stage: str) -> bool:
        """Whether a stage is finished, and an evaluation also with the settings asked for."""
        return self.is_finished(stage) and not (stage == "evaluate" and self._changes(stage))

    def _has_begun(self, stage: str) -> bool:
        """Whether a stage has left anything that its settings have decided."""
        if self.is_finished(stage):
            return True
        if stage != "data":
            return checkpoints.latest(self.checkpoints(stage)) is not None
        answers = self.data / ANSWERS_FILE
        has_answers = answers.exists() and answers.stat().st_size > 0
        return has_answers or any((self.data / CAPTURED).glob("*.parquet"))

    def _changes(self, stage: str) -> list[str]:
        """What is not as a stage was begun."""
        path = self._settings_path(stage)
        if not path.exists():
            return []
        begun = read_json(path, "put it back, or choose another --output")
        now = settings_of(stage, self._configuration)
        if stage == "data" and not self.is_finished(stage):
            # Answers are kept by who gave them, so another teacher is asked anew.
            for settings in (begun, now):
                settings.pop("teacher", None)
        return changes(begun, now)

    def _compare(self, stage: str) -> None:
        changed = self._changes(stage)
        if not changed:
            return
        again = ""
        if not self.is_finished(stage):
            begun = [self._settings_path(stage), self.checkpoints(stage)]
            there = " and ".join(str(path) for path in begun if path.exists())
            again = f", or remove {there} to begin the stage again"
        raise RunFolderError(
            f"stage {stage} of {self.root} was begun with other settings ({'; '.join(changed)}); "
            f"choose another --output or the old settings{again}"
        )

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"

    def _clock_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.clock.json"

    def _settings_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.settings.json"


def _refuse_foreign(root: Path) -> None:
    """Refuses a directory without a run that has files where a run's go."""
    if any(any(root.glob(pattern)) for pattern in _RECORDS):
        return
    for pattern in _WRITTEN:
        for path in root.glob(pattern):
            raise RunFolderError(
                f"{root}: got {path.relative_to(root)}, which no run has put there, expected a "
                "run's directory or a new one; choose another --output, or move it elsewhere"
            )


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        RunFolderError: it holds something else.
    """
    try:
        contents = json.loads(path.read_bytes())
    except ValueError:
        contents = None
    if not isinstance(contents, dict) or not contents:
        raise RunFolderError(
            f"{path}: got a damaged file, expected what gloss-train wrote there; {fix}"
        )
    return contents


def write_json(path: Path, contents: Any) -> None:
    """Writes a JSON file in one step: the old one or the new one is there, never half of one.

    Raises:
        DiskError: it could not be written; the old one is there.
    """
    temporary = path.with_suffix(".tmp")
    with writing(str(path), "What was there before is whole."):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps(contents, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
