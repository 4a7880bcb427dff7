"""Texts that a field of a browser cannot lay out: a part is shown, the whole is asked for."""

from __future__ import annotations

import base64
import json
import urllib.parse
import zlib

import pytest
from selenium.webdriver.common.keys import Keys

from support.explain_page import ExplainPage
from support.explain_runs import asked_rows, same
from support.server_process import ServerProcess
from support.tab import Tab

# More marks than are laid out within a minute; and so few that they can be explained.
HEAP = "e" + "\u0301" * 1_000_000
SMALL_HEAP = "Leo is a tailor. He" + "\u0301" * 40 + " meets Hugo."


def _packed(text: str) -> str:
    deflated = zlib.compress(text.encode(), 9, -15)
    return "~" + base64.urlsafe_b64encode(deflated).decode().rstrip("=")


def _unpacked(url: str, name: str) -> str:
    query = urllib.parse.parse_qs(url.partition("?")[2])
    packed = query[name][0].removeprefix("~")
    return zlib.decompress(
        base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), -15
    ).decode()


def _cut(tab: Tab, field: str) -> bool:
    """Whether a field shows a part, and says of how much."""
    tab.wait_text(f"{field}-aside", "characters, more than can be shown")
    assert len(tab.find(field).get_attribute("value")) < 10_000
    assert tab.find(field).get_attribute("readonly")
    return True


@pytest.mark.parametrize(
    "text",
    [HEAP, "\n" * 200_000, "w" * 300_000, "\u05e9a" * 100_000],
    ids=["heap", "lines", "long", "turns"],
)
@pytest.mark.parametrize("view", ["explain", "watch"])
def test_a_link_with_a_heavy_text(tab: Tab, view: str, text: str) -> None:
    field = "#text" if view == "explain" else "#watch-text"
    tab.open(f"/#{view}?text={_packed(text)}&seed=1")
    assert _cut(tab, field)
    # It is whole all the same, and can be let go of.
    tab.find(f'#{view} [data-option="seed"] input').send_keys("2")
    tab.wait(lambda: "seed=12" in tab.driver.current_url, "the address")
    assert _unpacked(tab.driver.current_url, "text") == text
    tab.find(f"{field}-clear").click()
    tab.press("Mia", Keys.SPACE)
    assert tab.find(field).get_attribute("value") == "Mia "
    tab.wait(lambda: "text=.Mia" in tab.driver.current_url, "the address")


def test_a_chat_with_a_heavy_message(tab: Tab) -> None:
    chat = json.dumps([{"role": "user", "content": "Leo"}, {"role": "assistant", "content": HEAP}])
    tab.open(f"/#explain?chat={_packed(chat)}")
    assert _cut(tab, "#message-3")


@pytest.mark.parametrize("damaged", ["chat", "positions"])
def test_what_no_field_is_for_is_called_damaged(tab: Tab, damaged: str) -> None:
    many = json.dumps([{"role": "user", "content": "Leo"}] * 50_000)
    value = _packed(many) if damaged == "chat" else "\u0301" * 1000
    tab.open(f"/#explain?{damaged}={value}")
    ExplainPage(tab).wait_notice(f"its {damaged} cannot be read")


def test_a_heavy_text_is_explained_whole(tab: Tab, service: ServerProcess) -> None:
    """Pasted into a text that was there."""
    tab.open("/")
    view = ExplainPage(tab)
    view.fill("", seed=3)
    before, after = SMALL_HEAP.split(" He")
    tab.find("#text").send_keys(f"{before}{after[-7:]}", *[Keys.ARROW_LEFT] * 7)
    tab.cdp("Input.insertText", text=f" He{after[:-7]}")
    assert _cut(tab, "#text")
    tab.button("Explain").click()
    view.wait_done()
    assert same(view.exported(), asked_rows(service.address, SMALL_HEAP, 3))
