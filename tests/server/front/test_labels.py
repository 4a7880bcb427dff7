"""The closed sets of labels hold every value that there is: what is in none is counted as OTHER."""

from __future__ import annotations

import re
from inspect import getsource
from pathlib import Path
from types import ModuleType

import gloss_engine
from gloss_engine.capture import positions
from gloss_engine.target import encoding
from gloss_server.front import text_input
from gloss_server.front.labels import ITEM_ERRORS


def _raised(module: ModuleType) -> set[str]:
    """Reasons of the errors that a module raises."""
    return set(re.findall(r'(?:RequestError|CallError)\(\s*"([A-Z_]+)"', getsource(module)))


def test_every_reason_for_which_an_item_fails_alone() -> None:
    """A text for what the front and the engine find in it alone; all else is made as such."""
    found = _raised(text_input) | _raised(encoding) | _raised(positions)
    for path in Path(gloss_engine.__path__[0]).rglob("*.py"):
        found |= set(re.findall(r'\bItemError\([^)]*?reason="([A-Z_]+)"', path.read_text()))
    # A call as a whole, whatever its texts are.
    of_calls = {"NO_TARGET", "TARGET_READS_ONLY", "INVALID_POSITIONS"}
    assert found - of_calls == set(ITEM_ERRORS)
