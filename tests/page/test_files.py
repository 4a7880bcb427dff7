"""Files of rows that are very long, or not as they should be: told of in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.explain_page import ExplainPage
from support.hostile_rows import row, write_rows
from support.tab import Tab

_MANY = 200_000  # More than a call may have arguments.


@pytest.fixture
def view(alone: Tab) -> ExplainPage:
    """The view, empty."""
    alone.open("/")
    return ExplainPage(alone)


def test_a_reading_of_very_many_rows(alone: Tab) -> None:
    alone.open("/")
    code = """
      const { Reading } = await import("/static/reading.js");
      const rows = Array.from({ length: arguments[0] }, (_, n) => ({ position: n % 9, sample: 0 }));
      return Reading.of(rows).rows.length;
    """
    assert alone.script(f"return (async function () {{ {code} }})(...arguments)", _MANY) == 9


def test_a_file_of_very_many_documents(alone: Tab) -> None:
    alone.open("/")
    code = """
      const { RunBar } = await import("/static/explain/run_bar.js");
      const bar = new RunBar({});
      bar.documents = Array.from({ length: arguments[0] }, () => ({ docId: "a", rows: [0] }));
      return bar.root.querySelectorAll("option").length;
    """
    assert alone.script(f"return (async function () {{ {code} }})(...arguments)", _MANY) == _MANY


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("seed", '"x}\\""'), ("seed", '"5"'), ("norm", "1e999"), ("token_id", "1e999")],
)
def test_what_could_not_be_saved_again_is_refused(
    view: ExplainPage, tmp_path: Path, field: str, wrong: str
) -> None:
    path = tmp_path / "rows.jsonl"
    line = json.dumps({**row(0, "Leo", "a tailor"), field: "WRONG"})
    path.write_text(line.replace('"WRONG"', wrong) + "\n")
    view.open_file(path)
    view.wait_notice(f"line 1: {field} is not")
    # The form is there, for another try.
    assert view.tab.find("#text")


def test_what_nobody_knows_is_saved_as_it_was(view: ExplainPage, tmp_path: Path) -> None:
    more: dict[str, Any] = {"seed": 2**64 - 1, "more": {"seed": 'x}"', "other": ["é", 0.5]}}
    rows = [{**row(0, "Leo", "a tailor"), **more}]
    view.open_file(write_rows(tmp_path / "rows.jsonl", rows))
    view.tab.wait(view.coloured, "a colour")
    assert view.exported() == rows


def test_a_line_without_an_end_is_not_gathered(view: ExplainPage, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("w" * 40_000_000)
    view.open_file(path)
    view.wait_notice("a line has more than 32,000,000 characters")
    assert not view.tab.text("#file-status")
