"""The Watch view on the embedded pair: a model's text grows, what its activations say beside it."""

from __future__ import annotations

import re

import pytest
from selenium.webdriver.common.keys import Keys

from support.explain_runs import watched
from support.server_process import ServerProcess
from support.tab import Tab
from support.watch_page import WatchPage

PROMPT = "Mia is a baker. She has a silver key."
SEED = 5
GREEDY = {"heat": 0, "seed": SEED}


@pytest.fixture
def view(tab: Tab) -> WatchPage:
    """The view, nothing watched."""
    tab.open("/#watch")
    return WatchPage(tab)


def test_text_and_explanations_come_live(view: WatchPage, service: ServerProcess) -> None:
    view.start(PROMPT, tokens=40, pace=8, **GREEDY)
    # In the middle of it both are there, and more comes.
    view.tab.wait(lambda: 2 <= len(view.said()) < 30, "explanations while the model speaks")
    assert "The model speaks" in view.state()
    text, early = view.text(), view.said()
    view.wait_state("Done")
    assert view.text().startswith(text) and len(view.text()) > len(text)
    assert (view.text(), view.said()) == watched(service.address, PROMPT, SEED, tokens=40, heat=0)
    assert all(view.said()[position] == said for position, said in early.items())
    lags = [row["aside"] for row in view.rows() if row["said"]]
    assert all(re.fullmatch(r"\d+\.\d\d s later", lag) for lag in lags), lags
    assert re.fullmatch(r"\d+\.\d\d s", view.figure("lag"))
    assert view.figure("explained").startswith("40 of 40")
    assert view.figure("skipped") == "0"


def test_a_pause_ends_the_call_and_loses_nothing(view: WatchPage, service: ServerProcess) -> None:
    drawn = {"tokens": 40, "heat": 0.8, "every": 3}
    view.start(PROMPT, pace=8, seed=SEED, **drawn)
    view.tab.wait(lambda: view.said(), "an explanation")
    view.tab.button("Pause").click()
    view.wait_state("Paused")
    assert "It goes on as it would have without the pause." in view.tab.text("#watch-note")
    # It is real: the service works no more for it.
    service.wait_for(lambda: service.stats().watching == 0)
    text, said = view.text(), view.said()
    view.tab.button("Resume").click()
    view.wait_state("Done")
    expected = watched(service.address, PROMPT, SEED, **drawn)
    assert expected[0].startswith(text) and (view.text(), view.said()) == expected
    assert all(view.said()[position] == one for position, one in said.items())


def test_it_is_stopped(view: WatchPage, service: ServerProcess) -> None:
    view.start(PROMPT, tokens=200, pace=10, **GREEDY)
    view.tab.wait(lambda: len(view.said()) >= 2, "two explanations")
    view.tab.button("Stop").click()
    view.wait_state("Stopped")
    service.wait_for(lambda: service.stats().watching == 0)
    said = view.said()
    assert len(said) >= 2
    assert "Resume" not in view.tab.seen()


def test_tokens_between_every_third_are_seen(view: WatchPage) -> None:
    view.start(PROMPT, tokens=12, pace=0, every=3, **GREEDY)
    view.wait_state("Done")
    notes = [row["note"] for row in view.rows() if row["note"]]
    assert notes and all("every 3rd" in note for note in notes), notes
    assert len(view.said()) == 4
    assert "8 (between every 3rd)" in view.tab.text("#watch-note")
    assert view.figure("skipped") == "8"


def test_what_cannot_be_kept_up_with_is_seen(narrow_tab: Tab) -> None:
    narrow_tab.open("/#watch")
    view = WatchPage(narrow_tab)
    view.start(PROMPT, tokens=40, pace=0, pending=1, **GREEDY)
    view.wait_state("Done")
    skipped = int(view.figure("skipped"))
    assert 0 < skipped < 40
    notes = [row["note"] for row in view.rows() if row["note"]]
    assert len(notes) == skipped
    assert all("too many were waiting" in note for note in notes)
    assert len(view.said()) == 40 - skipped
    assert f"{skipped} (too many were waiting" in narrow_tab.text("#watch-note")


def test_keys_alone_move_along_it(view: WatchPage) -> None:
    view.start(PROMPT, tokens=10, pace=0, **GREEDY)
    view.wait_state("Done")
    rows = [row["position"] for row in view.rows()]
    view.tab.script("document.querySelector('#watch-rows > li[tabindex=\"0\"]').focus()")
    view.tab.press(Keys.HOME)
    for position in rows:
        chosen = view.tab.script("return Number(document.activeElement.dataset.position)")
        assert chosen == position
        view.tab.press(Keys.ARROW_DOWN)


def test_the_address_starts_it_again(view: WatchPage) -> None:
    view.start(PROMPT, tokens=8, pace=0, **GREEDY)
    view.wait_state("Done")
    before = (view.text(), view.said())
    view.tab.wait(lambda: "drawn=5" in view.tab.driver.current_url, "the address")
    with view.tab.another(view.tab.driver.current_url):
        view.wait_state("Done")
        assert (view.text(), view.said()) == before


def test_back_leads_to_the_watch_before(view: WatchPage) -> None:
    """As in the Explain view; and what is refused leaves the address of what is seen."""
    tab = view.tab
    view.start(PROMPT, tokens=4, pace=0, **GREEDY)
    view.wait_state("Done")
    first = view.text()
    tab.wait(lambda: "drawn=5" in tab.driver.current_url, "the address")
    tab.button("New watch").click()
    view.start("Leo is a tailor. He", tokens=4, pace=0, **GREEDY)
    tab.wait(lambda: view.text().startswith("Leo") and "Done" in view.state(), "the other watch")
    second = view.text()
    tab.wait(lambda: "text=.Leo" in tab.driver.current_url, "the other address")
    tab.driver.back()
    tab.wait(lambda: view.text() == first and "Done" in view.state(), "the watch before")
    assert "text=.Mia" in tab.driver.current_url
    tab.driver.forward()
    tab.wait(lambda: view.text() == second and "Done" in view.state(), "the other watch again")
    tab.allow("status of 400")
    tab.button("New watch").click()
    view.start("Hugo", tokens=4, positions="2000", **GREEDY)
    tab.wait_text("#watch-notice:not([hidden])", "2000")
    tab.wait(lambda: "text=.Leo" in tab.driver.current_url, "the address of what is seen")
    assert view.text() == second and "Done" in view.state()
