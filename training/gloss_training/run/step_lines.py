"""What is read again of a stage's logs, which have a line a step: `journal.py` writes them."""

from __future__ import annotations

import json
from pathlib import Path


def lines_before(path: Path, first_step: int) -> list[str]:
    """The lines of the steps before `first_step`."""
    if not first_step or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # The line that a killed run was writing has no end.
    whole = [line for line in lines if line.endswith("\n")]
    return [line for line in whole if json.loads(line)["step"] < first_step]
