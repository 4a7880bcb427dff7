"""A run's directory: its configuration, which stages are finished, and where everything stands.

    configuration.json                  the newest settings
    stages/<stage>.json                 record of a finished stage: its figures, what it took
    stages/<stage>.settings.json        the settings that a stage was begun with
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
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from gloss_training import checkpoints
from gloss_training.disk import writing
from gloss_training.errors import RunFolderError
from gloss_training.sharding import ALONE, Ranks

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "target": ("seed", "num_threads", "device", "dtype", "world"),
    "data": (
        *("seed", "num_threads", "device", "dtype", "world", "target"),
        *("data", "teacher", "prompt"),
    ),
    "ar": ("ar", "lora", "sharding"),
    "av": ("av", "lora", "sharding"),
    "rl": ("rl", "lora", "sharding"),
    "evaluate": ("evaluate",),
}
"""What each stage reads of the configuration. The later ones read all that `data` does too."""

_CHANGEABLE: Final[Mapping[str, frozenset[str]]] = {
    "data": frozenset(("max_dropped_share", "max_unanswered_share")),
    "teacher": frozenset(
        (
            *("base_url", "api_key_env", "concurrency", "requests_per_minute"),
            *("tokens_per_minute", "timeout_s", "max_attempts", "backoff_s", "max_backoff_s"),
            *("max_retry_after_s", "max_failures", "input_price", "output_price", "currency"),
        )
    ),
}
"""What a stage that was stopped may go on with another value of: it changes no row."""


class RunFolder:
    """The directory of one run.

    Args:
        root: made if it is not there.
        configuration: the run's settings, as plain values.
        ranks: processes that work on it; the first one writes.

    Raises:
        RunFolderError: a stage that was begun there read other settings.
    """

    def __init__(self, root: Path, configuration: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        self.root = root
        self._ranks = ranks
        self._configuration = dict(configuration)
        for stage in SECTIONS:
            path = self._settings_path(stage)
            if path.exists():
                self._compare(stage, json.loads(path.read_text(encoding="utf-8")))
        ranks.first(lambda: write_json(root / "configuration.json", self._configuration))

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
            RunFolderError: it is not finished.
        """
        path = self._record_path(stage)
        if not path.exists():
            raise RunFolderError(
                f"{self.root} has not finished stage {stage}; run gloss-train {stage} on it first"
            )
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def is_finished(self, stage: str) -> bool:
        """Whether a stage has its record."""
        return self._record_path(stage).exists()

    def stage(
        self, stage: str, work: Callable[[], dict[str, Any]], *, resume: bool
    ) -> dict[str, Any]:
        """Runs `work` unless the stage is finished; its figures, with the seconds it took.

        Args:
            stage: one of SECTIONS.
            work: makes all of the stage's files, from the newest checkpoint where there is one.
            resume: whether it may.

        Raises:
            RunFolderError: there are checkpoints, and `resume` was not asked for.
        """
        if self.is_finished(stage):
            return self.record(stage)
        newest = checkpoints.latest(self.checkpoints(stage))
        if newest is not None and not resume:
            raise RunFolderError(
                f"{self.root} was stopped in stage {stage} and has its {newest.name}; give "
                f"--resume to go on from there, or remove {newest.parent} to begin the stage again"
            )
        settings = self._settings(stage)
        self._ranks.first(lambda: write_json(self._settings_path(stage), settings))
        started = time.perf_counter()
        figures = work()
        record = {"seconds": round(time.perf_counter() - started, 1), **figures}
        self._ranks.first(lambda: write_json(self._record_path(stage), record))
        self._ranks.first(lambda: shutil.rmtree(self.checkpoints(stage), ignore_errors=True))
        return record

    def _compare(self, stage: str, begun: dict[str, Any]) -> None:
        changed = differences(begun, self._settings(stage))
        if not changed:
            return
        again = ""
        if not self.is_finished(stage):
            again = (
                f", or remove {self._settings_path(stage)} and {self.checkpoints(stage)} to begin "
                "the stage again"
            )
        raise RunFolderError(
            f"stage {stage} of {self.root} was begun with other settings ({'; '.join(changed)}); "
            f"choose another --output or the old settings{again}"
        )

    def _settings(self, stage: str) -> dict[str, Any]:
        names = dict.fromkeys((*SECTIONS["data"], *SECTIONS[stage]))
        if stage == "target":
            names = dict.fromkeys(SECTIONS["target"])
        return {name: _fixed(name, self._configuration.get(name)) for name in names}

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"

    def _settings_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.settings.json"


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


def _fixed(section: str, settings: Any) -> Any:
    """What of a section a stage that was begun has to keep."""
    changeable = _CHANGEABLE.get(section, frozenset())
    if not isinstance(settings, Mapping):
        return settings
    return {name: value for name, value in settings.items() if name not in changeable}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ between two dumped configurations, as "key: old -> new"."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found.extend(differences(left, right, f"{prefix}{key}."))
        elif left != right:
            found.append(f"{prefix}{key}: {left} -> {right}")
    return found
