"""Explanations and texts that would do harm if they were obeyed: they are shown, and do none.

Whoever opens somebody's file, or explains what a model was given, sees such texts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from support.explain_page import ExplainPage
from support.hostile_rows import HOSTILE, hostile_rows, row, write_rows
from support.tab import Tab

_UNHARMED = """
return {
  obeyed: window.obeyed ?? null,
  scripts: document.scripts.length,
  foreign: document.querySelectorAll("main img, main iframe, main object, main embed, main style,"
    + " main link, main script, main [onerror], main [onload], main a[href^='javascript']").length,
  title: document.title,
  polluted: ({}).polluted ?? null,
};
"""


def _unharmed(tab: Tab) -> bool:
    found = tab.script(_UNHARMED)
    expected = {
        **{"obeyed": None, "scripts": 1, "foreign": 0},
        **{"title": "Gloss: Explain", "polluted": None},
    }
    assert found == expected
    assert tab.overflow() == 0
    return True


def _box(tab: Tab, css: str) -> dict[str, float]:
    return dict(
        tab.script("return document.querySelector(arguments[0]).getBoundingClientRect()", css)
    )


@pytest.mark.parametrize("width", [360, 1280])
def test_a_file_of_hostile_rows(tab: Tab, tmp_path: Path, width: int) -> None:
    rows = hostile_rows()
    tab.look(width=width)
    tab.open("/")
    view = ExplainPage(tab)
    view.open_file(write_rows(tmp_path / "rows.jsonl", rows))
    tab.wait(lambda: len(view.coloured()) == len(rows), "colours")
    assert _unharmed(tab)
    # By keys: a token of line ends alone has no middle to click at.
    tab.press(Keys.HOME)
    for number, name in enumerate(HOSTILE):
        tab.wait(lambda at=number: view.selected() == at, name)
        assert _unharmed(tab), name
        panel = _box(tab, "#panel")
        assert panel["left"] >= 0 and panel["right"] <= width, name
        # The whole text is in the document or behind a button, never gone, and never in the way.
        assert panel["height"] < 20_000, name
        tab.press(*(["p"] if number < 6 else []), Keys.ARROW_RIGHT)
    # Pinned ones stand side by side.
    assert len(tab.all("#pins .pinned-card")) == 6
    assert _unharmed(tab)
    # What is saved is what was opened.
    assert view.exported() == rows


def test_markup_is_read_as_it_was_written(tab: Tab, tmp_path: Path) -> None:
    names = ("script", "handler", "link", "style", "entity", "template")
    rows = [row(n, " token", HOSTILE[name]) for n, name in enumerate(names)]
    tab.open("/")
    view = ExplainPage(tab)
    view.open_file(write_rows(tmp_path / "rows.jsonl", rows))
    for number, name in enumerate(names):
        view.select(number)
        assert view.sample(0)["text"] == HOSTILE[name]


def test_marks_of_direction_turn_nothing_round(tab: Tab, tmp_path: Path) -> None:
    """Overrides are shown as marks; what stands behind the text stays where it was."""
    rows = [row(0, "plain", "plain"), row(1, "\u202eabc", HOSTILE["bidi"])]
    tab.open("/")
    view = ExplainPage(tab)
    view.open_file(write_rows(tmp_path / "rows.jsonl", rows))
    view.select(0)
    before = _box(tab, "#panel dl")
    view.select(1)
    assert "\u202e" not in view.panel() and "202e" in view.panel()
    after = _box(tab, "#panel dl")
    assert (before["left"], before["right"]) == (after["left"], after["right"])


def test_all_of_a_text_of_hidden_marks_is_bounded(tab: Tab, tmp_path: Path) -> None:
    text = "\u202e" * 300_000
    tab.open("/")
    view = ExplainPage(tab)
    view.open_file(write_rows(tmp_path / "rows.jsonl", [row(0, "a", text)]))
    view.select(0)
    marks = "return document.querySelectorAll('#panel .sample > .passage .mark').length"
    # The mouse leaves the token, which shows the panel anew.
    tab.hover(tab.find("#panel-title"))
    tab.button("Show more of 300,000 characters").click()
    shown = view.sample(0)["text"]
    assert shown.count("\\u202e") == 102_000 and "\u202e" not in shown
    assert tab.script(marks) == 1000


def test_in_a_low_window_nothing_lies_over_the_text(tab: Tab, tmp_path: Path) -> None:
    tab.look(width=780, height=440)
    tab.open("/")
    view = ExplainPage(tab)
    view.open_file(write_rows(tmp_path / "rows.jsonl", [row(0, "Hugo", "a tailor")]))
    token = tab.find("#token-0")
    assert token == tab.script(
        "const {left, top} = arguments[0].getBoundingClientRect();"
        "return document.elementFromPoint(left + 3, top + 3)",
        token,
    )
    view.select(0)
    assert "a tailor" in view.panel()


@pytest.mark.parametrize("name", ["script", "handler", "style", "bidi", "control"])
def test_a_hostile_text_is_explained(tab: Tab, name: str) -> None:
    """The tiny pair knows none of its words; it reads them all the same."""
    tab.open("/")
    view = ExplainPage(tab)
    view.fill("")
    tab.script("document.querySelector('#text').value = arguments[0]", HOSTILE[name])
    tab.button("Explain").click()
    tab.wait(lambda: len(view.coloured()) > 2, "colours")
    assert _unharmed(tab)


@pytest.mark.parametrize(
    "text", ["e" + "\u0301" * 2000, HOSTILE["unbroken"]], ids=["marks", "long"]
)
def test_a_text_beyond_measure_is_refused_in_words_or_read(tab: Tab, text: str) -> None:
    tab.allow("status of 400", "status of 413")
    tab.open("/")
    view = ExplainPage(tab)
    view.fill("")
    tab.script("document.querySelector('#text').value = arguments[0]", text)
    tab.button("Explain").click()
    tab.wait(lambda: view.notice() or view.coloured(), "an answer")
    assert _unharmed(tab)
    # What to do is said once.
    assert view.notice().lower().count("shorten the text") < 2
    # The form is as usable as before.
    view.ask("Leo is a tailor.", seed=1)
    view.wait_done()
