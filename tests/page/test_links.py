"""Addresses of the Explain view: what a link brings, and what is not left of the one before."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.explain_page import ExplainPage
from support.hostile_rows import row, write_rows
from support.tab import Tab
from support.text_calls import STORY

LINK = "#explain?text=.Leo+is+a+tailor.&drawn=7&at=2&pins=1%2C3&find=Leo"


@pytest.fixture
def view(tab: Tab) -> ExplainPage:
    """The view, empty."""
    tab.open("/")
    return ExplainPage(tab)


@pytest.fixture
def seen(view: ExplainPage) -> ExplainPage:
    """The view with a reading."""
    view.ask("Leo is a tailor. He meets Hugo.", seed=7)
    view.wait_done()
    return view


def _address(tab: Tab, *parts: str) -> str:
    """The address, once it holds these."""
    return tab.wait(lambda: _with(tab.driver.current_url, parts), f"{parts} in the address")


def _with(url: str, parts: tuple[str, ...]) -> str:
    return url if all(part in url for part in parts) else ""


def test_a_link_outlives_a_reload_while_the_service_is_away(alone: Tab) -> None:
    alone.open("/" + LINK)
    view = ExplainPage(alone)
    for _ in range(2):
        view.wait_notice("away")
        time.sleep(0.5)  # The address follows a moment later.
        _address(alone, "text=.Leo+is", "drawn=7", "at=2", "pins=1%2C3", "find=Leo")
        alone.driver.refresh()
    # Once it is given up it can be tried again, until something else is written.
    alone.button("Stop").click()
    time.sleep(0.5)
    _address(alone, "drawn=7", "pins=1%2C3")
    alone.find("#text").send_keys("x")
    alone.wait(lambda: "drawn" not in alone.driver.current_url, "the form's address")
    # What is asked for is in the address before it is answered.
    view.ask("Mia is a baker.", seed=5)
    _address(alone, "text=.Mia", "drawn=5")


def test_a_link_in_the_same_tab_is_the_whole_state(seen: ExplainPage) -> None:
    """Nothing of the reading before is in the form, in the view or in the address."""
    tab = seen.tab
    seen.select(3)
    tab.find("#search").send_keys("Hugo")
    _address(tab, "find=Hugo", "at=3")
    tab.script("location.hash = '#explain?text=.Mia+is+a+baker.'")
    tab.wait(lambda: not tab.text("#results:not([hidden])"), "the reading being gone")
    assert tab.find("#text").get_attribute("value") == "Mia is a baker."
    time.sleep(0.5)
    assert tab.driver.current_url.endswith("#explain?text=.Mia+is+a+baker.")
    tab.script("location.hash = arguments[0]", LINK.replace("&find=Leo", ""))
    tab.wait(
        lambda: tab.text("#results:not([hidden])") and seen.selected() == 2, "the link's reading"
    )
    assert not tab.find("#search").get_attribute("value")


@pytest.mark.parametrize("damaged", ["text=~!!!!", "chat=.[]", 'chat=.{"a":1}'])
def test_a_damaged_link_in_the_same_tab(seen: ExplainPage, damaged: str) -> None:
    seen.tab.script("location.hash = arguments[0]", f"#explain?{damaged}&drawn=1")
    seen.wait_notice(f"damaged: its {damaged[:4]}")
    time.sleep(0.5)
    assert seen.tab.driver.current_url.endswith("#explain")
    # It is no more of the next link.
    seen.tab.script("location.hash = '#explain?text=.Mia'")
    seen.tab.wait(lambda: not seen.notice(), "no notice")


def test_pins_of_a_link_are_each_once_and_not_too_many(view: ExplainPage) -> None:
    story = (STORY + " ") * 5
    pins = ",".join(map(str, [3, 3, *range(130)]))
    values = json.dumps(f"#explain?text=.{story}&drawn=1&positions=1&pins={pins}")
    view.tab.script(f"location.hash = {values}")
    cards = view.tab.wait(lambda: view.tab.all("#pins .pinned-card"), "pins")
    assert len(cards) == 100


def test_back_leads_to_the_text_before(seen: ExplainPage, tmp_path: Path) -> None:
    tab = seen.tab
    seen.select(3)
    _address(tab, "at=3")
    first = seen.tokens()
    seen.ask("Mia is a baker.", seed=5)
    seen.wait_done()
    tab.wait(lambda: seen.tokens() != first, "the other text")
    seen.select(2)
    _address(tab, "text=.Mia", "at=2")
    tab.driver.back()
    tab.wait(lambda: seen.tokens() == first and seen.selected() == 3, "the text before")
    _address(tab, "text=.Leo", "drawn=7", "at=3")
    tab.driver.forward()
    tab.wait(lambda: seen.tokens() != first and seen.selected() == 2, "the other text again")
    # A file has no address; the text before it has.
    seen.open_file(write_rows(tmp_path / "rows.jsonl", [row(0, "Hugo", "a tailor")]))
    tab.wait(lambda: seen.tokens() == ["Hugo"], "the file")
    tab.wait(lambda: "drawn" not in tab.driver.current_url, "no text's address")
    tab.driver.back()
    tab.wait(lambda: len(seen.tokens()) > 1 and seen.selected() == 2, "the text before the file")


def test_what_is_refused_leaves_the_address_of_what_is_seen(seen: ExplainPage) -> None:
    seen.tab.allow("status of 400")
    seen.select(3)
    seen.ask("Mia is a baker.", seed=5, positions="2000")
    seen.wait_notice("2000")
    _address(seen.tab, "text=.Leo", "drawn=7", "at=3")


def test_a_damaged_link_of_a_watch(tab: Tab) -> None:
    tab.open("/#watch?chat=.[]&drawn=1")
    notice = "#watch-notice:not([hidden])"
    tab.wait_text(notice, "its chat cannot be read")
    tab.script("location.hash = '#watch?text=.Mia'")
    tab.wait(lambda: not tab.text(notice), "no notice")


def test_a_view_that_is_left_takes_nobody_back(view: ExplainPage) -> None:
    """Its address is due just when another view was asked for, and the browser has not said so."""
    tab = view.tab
    field = tab.labelled("Seed")
    tab.script(
        """
        const field = arguments[0];
        setTimeout(() => { location.hash = "#watch"; }, 190);
        field.value = "9";
        for (const kind of ["input", "change"]) {
          field.dispatchEvent(new Event(kind, {bubbles: true}));
        }
        // Both are due when the page comes to it.
        const end = performance.now() + 400;
        while (performance.now() < end);
        """,
        field,
    )
    tab.button("Start")
    time.sleep(0.5)
    assert urlsplit(tab.driver.current_url).fragment.startswith("watch")
    assert tab.driver.title == "Gloss: Watch"
