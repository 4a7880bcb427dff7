"""A tab of the browser with a page, as a person uses it: by what is seen, by keys, by the mouse."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from support.audit import violations
from support.browser import Browser

_Found = TypeVar("_Found")
_OWN_SCHEMES = ("data", "blob", "about")
# A look costs the browser a few milliseconds, and what is waited for needs them, too.
_LOOK_SECONDS = 0.05

_FIRST_SHOWN = """
const [css, path] = arguments;
const found = [];
if (css) found.push(...document.querySelectorAll(css));
else {
  const kind = XPathResult.ORDERED_NODE_SNAPSHOT_TYPE;
  const all = document.evaluate(path, document, null, kind, null);
  for (let at = 0; at < all.snapshotLength; at += 1) found.push(all.snapshotItem(at));
}
return found.find((one) =>
  one.checkVisibility({opacityProperty: true, visibilityProperty: true})
  && one.getClientRects().length > 0) ?? null;
"""
# Ends with an event of input, as keys do.
_FILL = """
const [field, text] = arguments;
if (field.value === text) return;
field.focus();
field.select();
document.execCommand(text ? "insertText" : "delete", false, text);
"""


class Tab:
    """A tab that is opened and closed with the context; what went wrong in it is told by `faults`.

    Args:
        browser: has it.
        origin: of the page: `http://127.0.0.1:PORT`.
    """

    def __init__(self, browser: Browser, origin: str) -> None:
        self.driver = browser.driver
        self.downloads = browser.downloads
        self.origin = origin
        self._allowed: tuple[str, ...] = ()
        self._messages: list[dict[str, Any]] = []
        self._console: list[dict[str, Any]] = []

    def __enter__(self) -> Tab:
        self._home = self.driver.current_window_handle
        self._read_logs()
        self._messages.clear()
        self._console.clear()
        self.driver.switch_to.new_window("tab")
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self.driver.window_handles:
            if handle != self._home:
                self.driver.switch_to.window(handle)
                self.driver.close()
        self.driver.switch_to.window(self._home)

    def open(self, path: str = "/") -> None:
        """Load the page, or another state of it.

        Args:
            path: of the URL, with its fragment.
        """
        self.driver.get(self.origin + path)

    @contextmanager
    def another(self, url: str) -> Iterator[None]:
        """The same URL in a second tab, which is closed at the end."""
        first = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        self.driver.get(url)
        yield
        self.driver.close()
        self.driver.switch_to.window(first)

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 800) -> None:
        """Set what the window looks like.

        Args:
            dark: the scheme that the system prefers.
            width, height: in CSS pixels.
        """
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def cdp(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the browser's own protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(method, parameters)
        return answer

    def script(self, body: str, *arguments: Any) -> Any:
        """What a function with this body returns in the page."""
        return self.driver.execute_script(body, *arguments)

    def all(self, css: str) -> list[WebElement]:
        """Elements by selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def find(self, css: str, seconds: float = 10) -> WebElement:
        """The first element by selector that is shown, waited for."""
        return self.wait(lambda: self.script(_FIRST_SHOWN, css, None), css, seconds)

    def labelled(self, label: str, seconds: float = 10) -> WebElement:
        """The field with this label."""
        fields = "[self::input or self::select or self::textarea]"
        return self._named(
            f"//*[@id=//label[normalize-space()={label!r}]/@for]"
            f"|//label[normalize-space(text())={label!r}]//*{fields}|//*[@aria-label={label!r}]",
            label,
            seconds,
        )

    def button(self, name: str, seconds: float = 10) -> WebElement:
        """The button that is called this."""
        path = f"//button[normalize-space()={name!r} or @aria-label={name!r}]"
        return self._named(path, name, seconds)

    def _named(self, path: str, name: str, seconds: float) -> WebElement:
        return self.wait(lambda: self.script(_FIRST_SHOWN, None, path), name, seconds)

    def fill(self, css: str, text: str) -> None:
        """Put a text in place of what a field holds, as one that is pasted."""
        self.script(_FILL, self.find(css), text)

    def text(self, css: str) -> str:
        """What an element shows; an empty text where there is none."""
        read = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.script(read, css))

    def wait(self, found: Callable[[], _Found], what: str = "it", seconds: float = 20) -> _Found:
        """Wait until something is there; what it is."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                value = found()
            except StaleElementReferenceException:
                value = None
            if value:
                return value
            assert time.monotonic() < deadline, f"never came: {what}; the page says:\n{self.seen()}"
            time.sleep(_LOOK_SECONDS)

    def wait_text(self, css: str, part: str, seconds: float = 20) -> str:
        """Wait until an element's text holds a part; the text."""
        return self.wait(lambda: _holding(self.text(css), part), part, seconds)

    def press(self, *keys: str) -> None:
        """Press and release keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element: WebElement) -> None:
        """Move the mouse onto an element."""
        ActionChains(self.driver).move_to_element(element).perform()

    def focused(self) -> str:
        """What has the focus, as a screen reader would call it: role and name."""
        element = self.driver.switch_to.active_element
        return f"{element.aria_role} {element.accessible_name}"

    def drawn(self, css: str) -> np.ndarray:
        """[height, width, 4] of 0 to 255: what a canvas shows."""
        url = self.script("return document.querySelector(arguments[0]).toDataURL()", css)
        png = base64.b64decode(url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))

    def screenshot(self) -> np.ndarray:
        """[height, width, 3] of 0 to 255: what the window shows."""
        shot = self.cdp("Page.captureScreenshot", format="png")["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"))

    def seen(self) -> str:
        """All that the page shows, shortened."""
        return str(self.script("return document.body ? document.body.innerText : ''"))[:3000]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(
            self.script(
                "const root = document.documentElement; return root.scrollWidth - root.clientWidth"
            )
        )

    def violations(self) -> list[str]:
        """What axe-core finds."""
        return violations(self.driver)

    def allow(self, *parts: str) -> None:
        """Console messages with one of these parts are no faults, such as a status of 503."""
        self._allowed += parts

    def faults(self) -> list[str]:
        """What the console has told of, and what was asked for elsewhere: nothing, as a rule."""
        self._read_logs()
        told = [
            str(line["message"])
            for line in self._console
            if line["level"] in ("SEVERE", "WARNING")
            and not any(part in line["message"] for part in self._allowed)
        ]
        return told + [f"asked for {url}" for url in self.requests() if not self._is_own(url)]

    def requests(self) -> list[str]:
        """URLs of all that the page has asked for so far."""
        self._read_logs()
        urls = []
        for message in self._messages:
            if message["method"] == "Network.requestWillBeSent":
                urls.append(str(message["params"]["request"]["url"]))
            elif message["method"] == "Network.webSocketCreated":
                urls.append(str(message["params"]["url"]))
        return urls

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme in _OWN_SCHEMES or f"{parts.scheme}://{parts.netloc}" == self.origin

    def _read_logs(self) -> None:
        self._console += self.driver.get_log("browser")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                self._messages.append(message)


def _holding(text: str, part: str) -> str:
    return text if part in text else ""
