"""The service away, restarting, refusing or slow: the page says so and goes on by itself.

Real processes: a service that is killed is killed. It is started again by the test that needs it,
at the same address, so that one page outlives all of its lives.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.browser import Browser
from support.explain_page import ExplainPage
from support.explain_runs import asked_rows, same, watched
from support.mortal_service import MortalService, free_address
from support.page_process import PageProcess
from support.server_process import ServerProcess
from support.tab import Tab
from support.text_calls import STORY, watch_request
from support.token_calls import ALICE, BOB, write_tokens
from support.watch_page import WatchPage

SEED = 11
# Long enough to be killed in the middle of.
LONG_STORY = f"{STORY} {STORY}"
PROMPT = "Mia is a baker. She"
# Room for all of it, and no more than a watch can hold.
MOST_QUEUED = 120
# What the console tells of when a request is refused or breaks off, as it does here on purpose.
NETWORK = ("Failed to load resource", "net::ERR_")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalService]:
    """It explains six tokens at a time, so that a text takes a while."""
    settings: dict[str, object] = {"num_slots": 6, "max_queued_explanations": MOST_QUEUED}
    with MortalService(tmp_path_factory.mktemp("mortal"), settings) as service:
        yield service


@pytest.fixture(scope="module")
def origin(mortal: MortalService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of its page, which outlives it."""
    with PageProcess(tmp_path_factory.mktemp("page") / "log", mortal.address) as page:
        yield page.origin


@pytest.fixture
def faulty(browser: Browser, origin: str) -> Iterator[Tab]:
    """A tab for that page."""
    with _tab(browser, origin) as tab:
        yield tab


@contextmanager
def _tab(browser: Browser, origin: str) -> Iterator[Tab]:
    with Tab(browser, origin) as tab:
        tab.look()
        tab.allow(*NETWORK)
        yield tab
        assert tab.faults() == []


def _begun(tab: Tab, number: int = 5) -> ExplainPage:
    """The long story, some of it explained."""
    tab.open("/")
    view = ExplainPage(tab)
    view.ask(LONG_STORY, seed=SEED)
    tab.wait(lambda: len(view.coloured()) >= number, "the first explanations", 60)
    return view


@pytest.fixture(scope="module")
def undisturbed(service: ServerProcess) -> Rows:
    """What is explained of the long story where nothing goes wrong."""
    return asked_rows(service.address, LONG_STORY, SEED)


def test_a_service_that_comes_late(mortal: MortalService, faulty: Tab, undisturbed: Rows) -> None:
    mortal.kill()
    faulty.open("/")
    faulty.wait_text("#service", "away")
    view = ExplainPage(faulty)
    view.ask(LONG_STORY, seed=SEED)
    view.wait_notice("away")
    mortal.alive()
    view.wait_done()
    faulty.wait_text("#service", "embedded")
    assert not view.notice()
    assert same(view.exported(), undisturbed)


def test_killed_while_it_explains(mortal: MortalService, faulty: Tab, undisturbed: Rows) -> None:
    mortal.alive()
    view = _begun(faulty)
    mortal.kill()
    view.wait_notice("away")
    # What was there stays, and can be read.
    before = view.coloured()
    assert 5 <= len(before) < len(undisturbed)
    view.select(before[0])
    assert view.sample(0)["text"] == undisturbed[before[0]]["explanation"]
    second = mortal.alive()
    view.wait_done()
    assert same(view.exported(), undisturbed)
    # Nothing that was there is made again.
    made = sum(one.count for one in second.stats().explanations)
    assert made <= len(undisturbed) - len(before)


def test_an_engine_that_dies_and_comes_back(
    mortal: MortalService, faulty: Tab, undisturbed: Rows
) -> None:
    server = mortal.alive()
    view = _begun(faulty)
    os.kill(server.engine_pid, signal.SIGKILL)
    view.wait_notice("engine")
    view.wait_done()
    assert same(view.exported(), undisturbed)


def test_an_engine_that_is_slow(mortal: MortalService, faulty: Tab, undisturbed: Rows) -> None:
    """While nothing comes, what is there can be read; then the rest comes."""
    server = mortal.alive()
    view = _begun(faulty, 3)
    os.kill(server.engine_pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        before = view.coloured()
        view.select(before[-1])
        assert view.sample(0)["text"] == undisturbed[before[-1]]["explanation"]
        assert view.coloured() == before
    finally:
        os.kill(server.engine_pid, signal.SIGCONT)
    view.wait_done()
    assert same(view.exported(), undisturbed)


def test_the_pages_own_server_is_restarted(
    browser: Browser, service: ServerProcess, tmp_path: Path, undisturbed: Rows
) -> None:
    address = free_address()
    with (
        PageProcess(tmp_path / "one", service.address, listen=address) as first,
        Tab(browser, first.origin) as tab,
    ):
        tab.look()
        tab.allow(*NETWORK)
        tab.open("/")
        tab.wait_text("#service", "embedded")
        first.process.kill()
        first.process.wait()
        view = ExplainPage(tab)
        view.ask(LONG_STORY, seed=SEED)
        view.wait_notice("gloss ui")
        with PageProcess(tmp_path / "two", service.address, listen=address):
            view.wait_done()
            assert same(view.exported(), undisturbed)
            tab.wait_text("#service", "embedded")


def test_the_pages_own_server_hangs(
    browser: Browser, service: ServerProcess, tmp_path: Path
) -> None:
    """Nothing breaks off; that nothing comes is noticed, and that it comes again."""
    with (
        PageProcess(tmp_path / "ui", service.address) as page,
        Tab(browser, page.origin) as tab,
    ):
        tab.look()
        tab.open("/")
        tab.wait_text("#service", "embedded")
        os.kill(page.process.pid, signal.SIGSTOP)
        try:
            tab.wait_text("#service", "does not answer")
        finally:
            os.kill(page.process.pid, signal.SIGCONT)
        tab.wait_text("#service", "embedded")
        assert tab.faults() == []


def test_eight_tabs(tab: Tab, service: ServerProcess) -> None:
    """A browser opens six connections to a server, for all tabs of it."""
    tab.open("/")
    first = tab.driver.current_window_handle
    for _ in range(7):
        tab.driver.switch_to.new_window("tab")
        tab.open("/")
        tab.wait_text("#service", "embedded")
    for window in (tab.driver.current_window_handle, first):
        tab.driver.switch_to.window(window)
        view = ExplainPage(tab)
        view.ask("Leo is a tailor.", seed=SEED)
        view.wait_done(20)


def test_a_full_queue(mortal: MortalService, faulty: Tab) -> None:
    """Another caller's watch holds all the room; when it goes, the page is next."""
    server = mortal.alive()
    expected = asked_rows(server.address, STORY, SEED, positions=":10")
    request = watch_request(max_pending=MOST_QUEUED - 2, tokens_per_second=1.0)
    other = server.stub.Watch(request, timeout=100)
    while not next(other).target_tokens:
        pass
    faulty.open("/")
    view = ExplainPage(faulty)
    view.ask(STORY, seed=SEED, positions=":10")
    view.wait_notice("queue is full")
    other.cancel()
    view.wait_done()
    assert not view.notice()
    assert same(view.exported(), expected)


def test_a_token_is_asked_for(browser: Browser, tmp_path: Path) -> None:
    """Without one, with a wrong one, with one that may not explain, with one that may."""
    tokens = write_tokens(tmp_path / "tokens.toml")
    with ServerProcess(tmp_path / "log", {"tokens": tokens}) as server:
        address = server.wait_ready().address
        with (
            PageProcess(tmp_path / "ui", address) as page,
            _tab(browser, page.origin) as tab,
        ):
            tab.open("/")
            tab.wait_text("#token-bar", "wants a token")
            view = ExplainPage(tab)
            _use(tab, "wrong-0123456789abcdef")
            tab.wait_text("#token-bar", "token")
            _use(tab, BOB)
            view.ask(STORY, seed=SEED)
            view.wait_notice("does not allow")
            _use(tab, ALICE)
            tab.wait_text("#service", "embedded")
            if not view.coloured():
                view.ask(STORY, seed=SEED)
            view.wait_done()
            # It is in no address, no file and nothing that outlives the tab.
            assert ALICE not in tab.driver.current_url
            assert ALICE not in tab.script("return JSON.stringify(localStorage)")
            assert ALICE not in (tmp_path / "ui").read_text()


def _use(tab: Tab, token: str) -> None:
    field = tab.find("#bearer-token")
    field.clear()
    field.send_keys(token)
    tab.button("Use it").click()


def _begun_watch(tab: Tab, number: int) -> WatchPage:
    """A watch of forty tokens, some of it explained."""
    tab.open("/#watch")
    view = WatchPage(tab)
    view.start(PROMPT, tokens=40, pace=8, heat=0.8, pending=100, seed=SEED)
    tab.wait(lambda: len(view.said()) >= number, "the first explanations")
    return view


def test_a_watch_goes_on_after_a_kill(
    service: ServerProcess, mortal: MortalService, faulty: Tab
) -> None:
    """With draws above temperature 0, too, it ends as an undisturbed one does."""
    mortal.alive()
    view = _begun_watch(faulty, 3)
    mortal.kill()
    view.wait_state("Waiting")
    text, said = view.text(), view.said()
    mortal.alive()
    view.wait_state("Done")
    assert view.text().startswith(text)
    now = view.said()
    assert all(now[position] == one for position, one in said.items())
    assert (view.text(), now) == watched(service.address, PROMPT, SEED, tokens=40, heat=0.8)


def test_a_watch_of_which_nothing_comes(mortal: MortalService, faulty: Tab) -> None:
    server = mortal.alive()
    view = _begun_watch(faulty, 1)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        faulty.wait_text("#watch-note", "Nothing new for")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    view.wait_state("Done")
    assert "Nothing new" not in faulty.text("#watch-note")


def test_the_status_of_a_service_that_is_away(mortal: MortalService, faulty: Tab) -> None:
    mortal.alive()
    faulty.open("/#status")
    faulty.wait_text("#status-state", "Serving")
    mortal.kill()
    faulty.wait_text("#status", "The service is away")
    # The last figures stay, and are said to be old.
    faulty.wait_text("#status-state", "ago")
    assert faulty.text("#figure-uptime .value")
    mortal.alive()
    faulty.wait_text("#status-state", "Serving")
    assert "away" not in faulty.text("#status")
