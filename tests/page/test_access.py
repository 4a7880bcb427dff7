"""Who uses no mouse, a screen reader, weak eyes, a small window or a huge one."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from support.explain_page import ExplainPage
from support.explain_runs import asked_rows
from support.server_process import ServerProcess
from support.tab import Tab
from support.text_calls import STORY
from support.watch_page import WatchPage

WIDTHS = pytest.mark.parametrize("width", [360, 1280])


def _go_to(tab: Tab, role: str, name: str) -> None:
    """Press Tab until this has the focus."""
    seen = []
    for _ in range(60):
        seen.append(tab.focused())
        if seen[-1] == f"{role} {name}":
            return
        tab.press(Keys.TAB)
    raise AssertionError(f"Tab never leads to {role} {name}: {seen}")


def test_from_load_to_a_read_explanation_by_keys_alone(tab: Tab, service: ServerProcess) -> None:
    row = asked_rows(service.address, STORY, 9, positions="12")[0]
    tab.open("/")
    tab.find("#text")
    _go_to(tab, "textbox", "Text")
    tab.press(STORY)
    _go_to(tab, "textbox", "Seed")
    tab.press("9")
    _go_to(tab, "button", "Explain")
    tab.press(Keys.ENTER)
    view = ExplainPage(tab)
    view.wait_done()
    _go_to(tab, "listbox", "Tokens")
    tab.press(Keys.HOME, *[Keys.ARROW_RIGHT] * 12)
    assert view.sample(0)["text"] == row["explanation"]
    active = tab.script("""
      const active = document.activeElement.getAttribute("aria-activedescendant");
      const token = document.getElementById(active);
      return [token.getAttribute("role"), token.getAttribute("aria-selected"), token.ariaLabel];
    """)
    assert active[:2] == ["option", "true"] and "position 12" in active[2] and "FVE" in active[2]
    # Pinned, the next one pinned, and unpinned again.
    tab.press("p", Keys.ARROW_RIGHT, "p")
    assert len(tab.all("#pins .pinned-card")) == 2
    _go_to(tab, "button", "Unpin position 12")
    tab.press(Keys.ENTER)
    tab.wait(lambda: len(tab.all("#pins .pinned-card")) == 1, "one pin")


def test_views_and_theme_by_keys_alone(tab: Tab) -> None:
    tab.open("/")
    tab.find("#text")
    for name in ("Watch", "Status", "Explain"):
        tab.script("document.activeElement.blur()")
        _go_to(tab, "link", name)
        tab.press(Keys.ENTER)
        tab.find(f"#{name.lower()}")
        assert tab.driver.title == f"Gloss: {name}"
    _go_to(tab, "button", "Theme: system")
    tab.press(Keys.ENTER, Keys.ENTER)
    assert tab.script("return document.documentElement.dataset.theme") == "dark"
    tab.press(Keys.ENTER)


def test_what_happens_is_announced(tab: Tab) -> None:
    """To who listens to the page: how many tokens there are, and the end."""
    tab.open("/")
    tab.script("""
      window.said = [];
      new MutationObserver(() => window.said.push(document.getElementById("announcer").textContent))
        .observe(document.getElementById("announcer"), {childList: true, subtree: true});
    """)
    view = ExplainPage(tab)
    view.ask(STORY, seed=3)
    view.wait_done()
    said = tab.wait(lambda: _said(tab, "explained"), "the end")
    assert any("29 tokens" in sentence for sentence in said), said


def _said(tab: Tab, part: str) -> list[str] | None:
    said: list[str] = tab.script("return window.said")
    return said if any(part in sentence for sentence in said) else None


def _explained(tab: Tab) -> None:
    """A story with much of what the view can show: samples, flags, pins, a search."""
    tab.open("/")
    view = ExplainPage(tab)
    view.ask(STORY, seed=3, samples=2, temperature=1.5, length=20)
    view.wait_done()
    for position in (4, 7):
        view.select(position)
        tab.button("Pin").click()
    tab.find("#search").send_keys("Leo")


def _audited(tab: Tab, width: int) -> bool:
    """Whether nothing is wrong with what is shown, in either scheme."""
    for dark in (True, False):
        tab.look(dark=dark, width=width)
        assert tab.violations() == [], "dark" if dark else "light"
        assert tab.overflow() == 0
    return True


@WIDTHS
def test_explain_has_no_violation(tab: Tab, width: int) -> None:
    tab.look(width=width)
    tab.open("/")
    tab.find("#text")
    assert _audited(tab, width)
    _explained(tab)
    assert _audited(tab, width)


@WIDTHS
def test_watch_has_no_violation(tab: Tab, width: int) -> None:
    tab.look(width=width)
    tab.open("/#watch")
    view = WatchPage(tab)
    tab.button("Start")
    assert _audited(tab, width)
    view.start("Mia is a baker. She", tokens=10, pace=0, every=2, samples=2, heat=0, seed=1)
    view.wait_state("Done")
    assert _audited(tab, width)


@WIDTHS
def test_status_has_no_violation(tab: Tab, width: int) -> None:
    tab.look(width=width)
    tab.open("/#status")
    tab.wait_text("#status-state", "Serving")
    tab.find("#chart-batch summary").click()
    assert _audited(tab, width)


@pytest.mark.parametrize("width", [360, 3840])
def test_no_view_is_wider_than_its_window(tab: Tab, width: int) -> None:
    tab.look(width=width, height=2160 if width > 2000 else 740)
    _explained(tab)
    assert tab.overflow() == 0
    for name in ("watch", "status"):
        tab.open(f"/#{name}")
        tab.find(f"#{name}")
        assert tab.overflow() == 0
