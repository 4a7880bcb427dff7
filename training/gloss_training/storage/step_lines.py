"""What is read again of a stage's logs, which have a line a step: `journal.py` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gloss_training.errors import RunFolderError


def lines_before(path: Path, first_step: int) -> list[str]:
    """The lines of the steps before `first_step`."""
    if not first_step or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # The line that a killed run was writing has no end.
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if step_of(path, line)["step"] < first_step]


def step_of(path: Path, line: str) -> dict[str, Any]:
    """What a line says of its step.

    Raises:
        RunFolderError: it is none that `journal.py` wrote.
    """
    try:
        step = json.loads(line)
    except ValueError:
        step = None
    if not isinstance(step, dict) or "step" not in step:
        raise RunFolderError(
            f"{path}: got {line.strip()[:60]!r}, expected a line a step, as gloss-train writes "
            "them; remove that line"
        )
    return step
