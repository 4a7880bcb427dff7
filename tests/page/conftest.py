"""The browser of a test process, a service on the embedded pair, its page, a tab for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.browser import Browser
from support.interrupts import heed_interrupts
from support.page_process import PageProcess
from support.server_process import ServerProcess
from support.tab import Tab

heed_interrupts()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests of this process."""
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded pair, for tests that leave it as it was."""
    with ServerProcess(tmp_path_factory.mktemp("service") / "log") as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def ui(service: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    """The page of `service`."""
    with PageProcess(tmp_path_factory.mktemp("ui") / "log", service.address) as page:
        yield page


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded pair, explaining two tokens at a time: others wait, colours come one by one."""
    log = tmp_path_factory.mktemp("narrow") / "log"
    with ServerProcess(log, settings={"num_slots": 2}) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def narrow_ui(narrow: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of `narrow`: its origin."""
    with PageProcess(tmp_path_factory.mktemp("narrow_ui") / "log", narrow.address) as page:
        yield page.origin
        assert page.output().count("\n") == 1, "more than the ready line"


@pytest.fixture(scope="session")
def lonely_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageProcess]:
    """A page whose service is nowhere."""
    with PageProcess(tmp_path_factory.mktemp("lonely_ui") / "log", "127.0.0.1:9") as page:
        yield page


@pytest.fixture
def tab(browser: Browser, ui: PageProcess) -> Iterator[Tab]:
    """A tab for the page of `service`; nothing in it may have gone wrong at the end."""
    with Tab(browser, ui.origin) as opened:
        opened.look()
        yield opened
        assert opened.faults() == []


@pytest.fixture
def narrow_tab(browser: Browser, narrow_ui: str) -> Iterator[Tab]:
    """The same for the page of `narrow`."""
    with Tab(browser, narrow_ui) as opened:
        opened.look()
        yield opened
        assert opened.faults() == []


@pytest.fixture
def alone(browser: Browser, lonely_ui: PageProcess) -> Iterator[Tab]:
    """The same for a page whose service is nowhere."""
    with Tab(browser, lonely_ui.origin) as opened:
        opened.look()
        opened.allow("status of 503")
        yield opened
        assert opened.faults() == []
