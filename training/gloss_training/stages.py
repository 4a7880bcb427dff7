"""Bookkeeping of a run directory: its configuration, and which stages are finished.

A stage's record is written last and in one step, so a stage that was cut off runs again.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gloss_training.config import TinyConfig, differences


class RunFolder:
    """A run's directory. ValueError if it belongs to a run with another configuration."""

    def __init__(self, root: Path, config: TinyConfig) -> None:
        self.root = root
        self.config = config
        root.mkdir(parents=True, exist_ok=True)
        current = config.model_dump(mode="json")
        path = root / "configuration.json"
        if path.exists():
            changed = differences(json.loads(path.read_text(encoding="utf-8")), current)
            if changed:
                raise ValueError(
                    f"{root} holds a run with another configuration ({'; '.join(changed)}); "
                    "choose another --output or the old settings"
                )
        write_json(path, current)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def record(self, stage: str) -> dict[str, Any] | None:
        """The record of a finished stage, None otherwise."""
        path = self._record_path(stage)
        if not path.exists():
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record

    def stage(self, stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Runs `work` unless the stage is finished; its figures, with the seconds it took."""
        finished = self.record(stage)
        if finished is not None:
            return finished
        started = time.perf_counter()
        figures = work()
        record = {"seconds": round(time.perf_counter() - started, 1), **figures}
        write_json(self._record_path(stage), record)
        return record

    def _record_path(self, stage: str) -> Path:
        return self.root / "stages" / f"{stage}.json"


def write_json(path: Path, contents: Any) -> None:
    """Writes a JSON file in one step: the old one or the new one is there, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)
