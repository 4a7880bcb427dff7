"""docs/faults.md has every fault, and the tests that it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (\d+) \|.*\| (.*) \|$", (REPOSITORY / "docs" / "faults.md").read_text(), re.MULTILINE
)


def test_every_fault_has_a_row() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 24))


@pytest.mark.parametrize(("number", "tests"), ROWS, ids=[number for number, _ in ROWS])
def test_what_proves_it_is_there(number: str, tests: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert named and ", ".join(f"`{file}::{name}`" for file, name in named) == tests, number
    for file, name in named:
        assert f"def {name}(" in (REPOSITORY / "tests" / file).read_text(), f"{file}::{name}"
