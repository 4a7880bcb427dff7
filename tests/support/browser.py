"""A headless Chromium of Debian's, driven by Selenium: one a process, a tab for each test.

It ends with whoever started it, however that ends: the kernel ends the driver, and the browser goes
when the driver's pipe closes.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Tabs that a test has left do not slow down, nor do they when another is in front.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    # Names resolve nowhere: what asks for another machine fails, and is seen to have asked.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-pipe",
)
_COMMAND_SECONDS = 60


class Browser:
    """A running browser; a context manager.

    Args:
        profile: its user-data directory, an empty one.

    Attributes:
        driver: Selenium's.
        downloads: where what pages give to save is put.

    Raises:
        FileNotFoundError: no Chromium or no driver; how to install them.
    """

    def __init__(self, profile: Path) -> None:
        chromium, driver = _program("chromium"), _program("chromedriver")
        self.downloads = profile / "downloads"
        self.downloads.mkdir(parents=True)
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={profile / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        options.add_experimental_option(
            "prefs", {"download.default_directory": str(self.downloads)}
        )
        self._service = _Driver(driver)
        self.driver = webdriver.Chrome(options=options, service=self._service)
        self.driver.command_executor.client_config.timeout = _COMMAND_SECONDS
        self.driver.set_script_timeout(_COMMAND_SECONDS)
        # What a new window shows by itself asks for files of the browser's own.
        self.driver.get("about:blank")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(Exception):
            self.driver.quit()
        with suppress(ProcessLookupError):
            os.killpg(self._service.process.pid, signal.SIGKILL)
        self._service.process.wait()


class _Driver(Service):
    """chromedriver in a session of its own, killed by the kernel when this process ends."""

    def __init__(self, driver: str) -> None:
        super().__init__(_program("setpriv"), popen_kw={"start_new_session": True})
        self._driver = driver

    def command_line_args(self) -> list[str]:
        """Of setpriv."""
        return ["--pdeathsig", "KILL", self._driver, *super().command_line_args()]


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"got no {name} on PATH, expected Chromium and its driver; "
            "Debian: apt install chromium chromium-driver"
        )
    return path
