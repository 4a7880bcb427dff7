"""The Explain view on the embedded pair: what a person does, and what the page then shows.

What it shows is held against what a client of gRPC gets of the same service, for the same seed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from support.explain_page import ExplainPage
from support.explain_runs import asked_rows, in_order, same
from support.server_process import ServerProcess
from support.tab import Tab
from support.text_calls import STORY

SEED = 7
# Tokens of the embedded pair are words without the blanks between them.
WORDS = STORY.replace(" ", "")
BANDS = ((0.0, "f0"), (0.2, "f1"), (0.4, "f2"), (0.6, "f3"), (0.8, "f4"), (0.9, "f5"))
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def expected(service: ServerProcess) -> Rows:
    """What is explained of the story, one sample of every token."""
    return asked_rows(service.address, STORY, SEED)


@pytest.fixture
def view(tab: Tab) -> ExplainPage:
    """The view, empty."""
    tab.open("/")
    return ExplainPage(tab)


@pytest.fixture
def read(view: ExplainPage, expected: Rows) -> ExplainPage:
    """The view once the story is explained."""
    view.ask(STORY, seed=SEED)
    view.tab.wait(lambda: len(view.coloured()) == len(expected), "a colour for every token")
    return view


def _band(fve: float) -> str:
    return next((name for bound, name in BANDS if fve < bound), "f6")


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _holds(shown: dict[str, str], row: dict[str, Any]) -> bool:
    """Whether the panel says what a row does."""
    assert shown["text"] == row["explanation"]
    assert abs(float(shown["FVE"].replace("−", "-")) - row["fve"]) < 0.011
    assert abs(float(shown["Cosine"].replace("−", "-")) - row["cosine"]) < 0.0015
    logprob = shown["Log-prob"].split()[0].replace("−", "-")
    assert abs(float(logprob) - row["logprob"]) < 0.011
    return True


def test_every_token_is_shown_and_coloured_by_its_fidelity(
    read: ExplainPage, expected: Rows
) -> None:
    assert "".join(read.tokens()) == WORDS
    bands = read.bands()
    assert list(bands) == [row["position"] for row in expected]
    for row in expected:
        # A sum in another batch may cross a bound by a hair.
        assert bands[row["position"]] in {_band(row["fve"] + hair) for hair in (-1e-3, 1e-3)}
    legend = read.tab.text('#explain [aria-label="Colours of fidelity"]')
    assert "below 0" in legend and "0.8" in legend and "not scored" in legend


def test_the_panel_says_what_grpc_says(read: ExplainPage, expected: Rows) -> None:
    """Along the text by arrow keys, every token."""
    read.select(0)
    for row in expected:
        read.tab.wait(lambda at=row["position"]: read.selected() == at, "the next token")
        _holds(read.sample(0), row)
        place = read.facts()
        assert place["Token id"] == str(row["token_id"])
        assert place["Norm"] == _shown(row["norm"], 2)
        for flag in row["flags"]:
            assert flag in read.panel()
        read.tab.press(Keys.ARROW_RIGHT)
    read.tab.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert read.selected() == expected[-3]["position"]
    read.tab.press(Keys.HOME)
    assert read.selected() == 0
    read.tab.press(Keys.END)
    assert read.selected() == expected[-1]["position"]


def test_a_token_under_the_mouse_is_told_of(read: ExplainPage, expected: Rows) -> None:
    read.select(4)
    read.tab.hover(read.tab.find("#token-9"))
    read.tab.wait(lambda: read.selected() == 9, "the token under the mouse")
    _holds(read.sample(0), expected[9])
    read.tab.hover(read.tab.find("header.top"))
    read.tab.wait(lambda: read.selected() == 4, "the chosen token again")


def test_samples_stand_side_by_side(view: ExplainPage, service: ServerProcess) -> None:
    options = {"num_samples": 3, "temperature": 0.8}
    rows = asked_rows(service.address, STORY, SEED, positions="5:8", **options)
    view.ask(STORY, seed=SEED, positions="5:8", samples=3, temperature=0.8)
    view.tab.wait(lambda: view.coloured() == [5, 6, 7], "three colours")
    view.select(6)
    view.tab.wait(lambda: len(view.tab.all("#panel .sample dl")) == 3, "three samples")
    for number in range(3):
        (row,) = [r for r in rows if (r["position"], r["sample"]) == (6, number)]
        _holds(view.sample(number), row)
    tops = view.tab.script(
        "return [...document.querySelectorAll('#panel .sample')].map((one) => one.offsetLeft)"
    )
    assert len(set(tops)) > 1, "nothing stands beside anything"
    assert view.bands()[8] == "unscored"


def test_options_and_how_it_ended_in_words(view: ExplainPage) -> None:
    view.ask(STORY, seed=SEED, positions="4,9", temperature=0, length=3)
    view.tab.wait(lambda: view.coloured() == [4, 9], "two colours")
    view.select(9)
    assert view.facts()["Ended by"] == "longest length"
    assert "cut off before its closing tag" in view.panel()
    assert view.facts()["Tokens"] == "3"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("positions", "1:2:x"), ("samples", "0"), ("temperature", "hot"), ("length", "-1")],
)
def test_a_wrong_option_is_told_of_at_its_field(view: ExplainPage, name: str, wrong: str) -> None:
    view.ask(STORY, **{name: wrong})
    field = view.tab.find(f"#option-{name}")
    assert field.get_attribute("aria-invalid") == "true"
    said = view.tab.text("#" + field.get_attribute("aria-errormessage"))
    assert wrong in said and "expected" in said
    assert not view.tokens()


def test_what_the_service_refuses_is_told_in_words(view: ExplainPage) -> None:
    view.ask(STORY, positions="2000")
    view.tab.allow("status of 400")
    said = view.wait_notice("2000")
    assert "29 tokens" in said


def test_a_chat(view: ExplainPage, service: ServerProcess) -> None:
    messages = [("user", "Who meets Hugo?"), ("assistant", "Leo meets Hugo.")]
    chat = [{"role": role, "content": content} for role, content in messages]
    rows = asked_rows(service.address, chat, SEED)
    view.fill("", seed=SEED)
    view.tab.button("Chat").click()
    view.tab.find('[aria-label="What message 1 says"]').send_keys(messages[0][1])
    view.tab.button("Add a message").click()
    view.tab.press(messages[1][1])
    view.tab.button("Explain").click()
    view.wait_done()
    assert same(view.exported(), rows)


def test_pinned_tokens_are_compared(read: ExplainPage, expected: Rows) -> None:
    for position in (9, 3):
        read.select(position)
        read.tab.button("Pin").click()
    cards = read.tab.wait(lambda: _texts(read.tab, "#pins .pinned-card"), "pins")
    assert len(cards) == 2
    for card, position in zip(cards, (3, 9), strict=True):
        assert expected[position]["explanation"] in card
        assert f"at {position}" in card
    read.tab.button("Unpin position 3").click()
    read.tab.wait(lambda: len(read.tab.all("#pins .pinned-card")) == 1, "one pin")
    read.tab.button("Unpin all").click()
    read.tab.wait(lambda: not read.tab.all("#pins .pinned-card"), "no pin")


def _texts(tab: Tab, css: str) -> list[str]:
    read = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
    return list(tab.script(read, css))


def test_search_goes_from_match_to_match(read: ExplainPage, expected: Rows) -> None:
    word = "Hugo"
    matching = [row["position"] for row in expected if word in row["explanation"]]
    assert 2 < len(matching) < len(expected)
    read.tab.find("#search").send_keys(word.lower())
    read.tab.wait_text("#search-count", f"{len(matching)} found")
    seen = []
    for _ in range(len(matching) + 1):
        read.tab.press(Keys.ENTER)
        seen.append(read.selected())
    start = matching.index(seen[0])
    assert seen == [*matching[start:], *matching[:start], seen[0]]
    assert read.tab.text("#panel mark") == word
    read.tab.find("#search").send_keys("xyz")
    read.tab.wait_text("#search-count", "none found")


def test_the_strip_shows_every_position(read: ExplainPage, expected: Rows) -> None:
    strip = read.tab.find("#strip")
    assert strip.get_attribute("role") == "slider"
    columns = read.tab.drawn("#strip canvas")[..., 3].any(axis=0)
    assert columns.mean() > 0.95
    box = strip.rect
    at = 14
    offset = int(box["width"] * ((at + 0.5) / len(expected) - 0.5))
    ActionChains(read.tab.driver).move_to_element_with_offset(strip, offset, 0).click().perform()
    read.tab.wait(lambda: read.selected() == at, "the position under the mouse")
    assert strip.get_attribute("aria-valuenow") == str(at)


def test_the_address_reopens_the_view(read: ExplainPage, expected: Rows) -> None:
    """Text, options, chosen and pinned tokens, search: all of it in another tab."""
    read.select(3)
    read.tab.button("Pin").click()
    read.select(9)
    read.tab.find("#search").send_keys("Hugo")
    read.tab.wait_text("#search-count", "found")
    before = (read.bands(), read.sample(0), read.tab.text("#search-count"))
    read.tab.wait(lambda: "find=Hugo" in read.tab.driver.current_url, "the address")
    url = read.tab.driver.current_url
    with read.tab.another(url):
        read.tab.wait(lambda: len(read.coloured()) == len(expected), "colours", 30)
        read.tab.wait(lambda: read.selected() == 9, "the chosen token")
        read.tab.wait_text("#search-count", before[2])
        after = (read.bands(), read.sample(0), read.tab.text("#search-count"))
        assert after == before
        assert len(read.tab.all("#pins .pinned-card")) == 1
        assert read.tab.script("return document.querySelector('#text').value") == STORY


def _command(service: ServerProcess, path: Path) -> Rows:
    command = [sys.executable, "-m", "gloss_server.command", "explain", STORY]
    command += ["--address", service.address, "--seed", str(SEED), "--output", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return in_order([json.loads(line) for line in path.read_text().splitlines()])


def test_a_saved_file_is_what_the_command_writes(
    read: ExplainPage, service: ServerProcess, tmp_path: Path
) -> None:
    assert same(read.exported(), _command(service, tmp_path / "rows.jsonl"))


def test_a_file_is_read_without_a_server(
    alone: Tab, service: ServerProcess, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = _command(service, path)
    alone.open("/")
    view = ExplainPage(alone)
    view.open_file(path)
    alone.wait(lambda: len(view.coloured()) == len(rows), "colours")
    assert "".join(view.tokens()) == WORDS
    view.select(9)
    _holds(view.sample(0), rows[9])
    assert same(view.exported(), rows)


def test_a_file_that_is_none_of_ours(view: ExplainPage, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"index": 0}\n')
    view.open_file(path)
    assert "line 1" in view.wait_notice("line 1")
