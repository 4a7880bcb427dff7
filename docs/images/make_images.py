"""Takes the pictures of the page that the docs show: each view, wide and narrow, light and dark.

    PYTHONPATH=tests .venv/bin/python docs/images/make_images.py

A service on the embedded pair, its page and a headless Chromium are started for it; two minutes.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from PIL import Image

from gloss_client import Client
from support.browser import Browser
from support.explain_page import ExplainPage
from support.page_process import PageProcess
from support.server_process import ServerProcess
from support.tab import Tab
from support.watch_page import WatchPage

FOLDER = Path(__file__).parent
STORY = (
    "Leo is a tailor. He meets Hugo. What will happen next? He eats fish. Then he stops. He waits "
    "in the old village. Then he stops. A brown coin lies on the table. The wind is soft. This "
    "makes him sad. The tailor looks at the coin again. He came here at dawn. He likes the village."
)
SIZES = {"": (1280, 900), "_narrow": (360, 780)}
STATUS_SECONDS = 60


def main() -> None:
    """Take all of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            ServerProcess(folder / "service") as service,
            PageProcess(folder / "ui", service.wait_ready().address) as page,
            Browser(folder / "browser") as browser,
            Tab(browser, page.origin) as tab,
        ):
            _explain(tab)
            _watch(tab)
            _status(tab, service.address)


def _explain(tab: Tab) -> None:
    tab.look()
    tab.open("/")
    view = ExplainPage(tab)
    view.ask(STORY, seed=1)
    view.wait_done()
    for position in (14, 38):
        view.select(position)
        tab.press("p")
    view.select(44)
    _take(tab, "explain", "#tokens")


def _watch(tab: Tab) -> None:
    tab.look()
    tab.open("/#watch")
    view = WatchPage(tab)
    view.start("Mia is a baker. She has a silver key.", tokens=40, pace=5, heat=0, seed=5)
    view.wait_state("Done")
    _take(tab, "watch", "#watch-bar")


def _status(tab: Tab, address: str) -> None:
    tab.look()
    tab.open("/#status")
    with Client(address) as client:
        for second in range(STATUS_SECONDS):
            client.explain(STORY, positions=f":{8 + 7 * (second % 8)}", seed=second)
            time.sleep(0.5)
    _take(tab, "status", "#status")


def _take(tab: Tab, name: str, narrow_from: str) -> None:
    """Pictures of what is open: of the narrow window, from an element on."""
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            tab.look(dark=scheme == "dark", width=width, height=height)
            top = narrow_from if size else "body"
            tab.script("document.querySelector(arguments[0]).scrollIntoView()", top)
            # What is drawn for the other scheme or size is drawn anew.
            time.sleep(1.5)
            picture = Image.fromarray(tab.screenshot())
            small = picture.quantize(256, kmeans=2, dither=Image.Dither.NONE)
            small.save(FOLDER / f"{name}{size}_{scheme}.png", optimize=True)


if __name__ == "__main__":
    main()
