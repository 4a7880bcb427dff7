"""How fast the page is in a headless Chromium, on the embedded pair.

load     From the request of the page to the last of its files having run, nothing cached.
colour   From the arrival of a token's first score in the page to its colour on the screen; a story
         of 87 tokens, explained a few at a time and all together.
frames   How long a frame takes while 4,000 tokens scroll, while arrow keys walk along them, and
         while a search is typed; that of the empty form is what the browser itself takes.

    PYTHONPATH=tests .venv/bin/python benchmarks/bench_page.py [--repeats N] [--output FILE]

Times in ms. It measures the browser as well, which draws on the CPU here.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import table, write_result
from selenium.webdriver.common.keys import Keys

from support.browser import Browser
from support.explain_page import ExplainPage
from support.hostile_rows import many_rows, write_rows
from support.page_process import PageProcess
from support.page_timing import (
    Quantiles,
    begin_frames,
    colour_delays,
    end_frames,
    load_ms,
    note_colours,
    scroll,
)
from support.server_process import ServerProcess
from support.tab import Tab
from support.text_calls import STORY

NUM_TOKENS = 4000
LONG_STORY = f"{STORY} {STORY} {STORY}"
Row = dict[str, Any]


def _row(part: str, what: str, times: Quantiles, goal_ms: float | None = None) -> Row:
    rounded = {name: round(value, 1) for name, value in asdict(times).items()}
    goal = None if goal_ms is None else "met" if times.p95 <= goal_ms else "missed"
    return {"part": part, "what": what, **rounded, "goal_ms": goal_ms, "goal": goal}


def load_row(tab: Tab, repeats: int) -> Row:
    """Of the page, several times."""
    tab.cdp("Network.setCacheDisabled", cacheDisabled=True)
    times = []
    for _ in range(repeats):
        tab.open("/")
        tab.find("#text")
        times.append(load_ms(tab))
    return _row("load", "from loopback", Quantiles.of(times), 1000.0)


def colour_row(tab: Tab, what: str) -> Row:
    """Of one story."""
    note_colours(tab)
    tab.open("/")
    view = ExplainPage(tab)
    view.ask(LONG_STORY, seed=1)
    view.wait_done(300)
    return _row("colour", what, colour_delays(tab), 50.0)


def frame_rows(tab: Tab, path: Path) -> list[Row]:
    """Of many tokens, and of nothing."""
    goal = 1000 / 60 * 1.5
    tab.open("/")
    tab.find("#text")
    begin_frames(tab)
    scroll(tab, 3000)
    rows = [_row("frames", "the form, scrolled", end_frames(tab), goal)]
    view = ExplainPage(tab)
    view.open_file(path)
    tab.wait(lambda: len(view.coloured()) == NUM_TOKENS, "colours", 120)
    begin_frames(tab)
    scroll(tab, 3000)
    rows.append(_row("frames", f"{NUM_TOKENS} tokens scroll", end_frames(tab), goal))
    view.select(0)
    begin_frames(tab)
    for _ in range(20):
        tab.press(*[Keys.ARROW_RIGHT] * 10)
    rows.append(_row("frames", f"200 arrow keys along {NUM_TOKENS} tokens", end_frames(tab), goal))
    begin_frames(tab)
    tab.find("#search").send_keys("of 4")
    rows.append(_row("frames", f"a search in {NUM_TOKENS} explanations", end_frames(tab)))
    return rows


def measure(repeats: int) -> list[Row]:
    """All of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[Row] = []
        with Browser(folder / "browser") as browser:
            for slots, what in ((6, "six at a time"), (256, "all together")):
                with (
                    ServerProcess(folder / f"log{slots}", settings={"num_slots": slots}) as service,
                    PageProcess(folder / f"ui{slots}", service.wait_ready().address) as page,
                ):
                    with Tab(browser, page.origin) as tab:
                        tab.look()
                        rows.append(colour_row(tab, what))
                    if slots == 256:
                        with Tab(browser, page.origin) as tab:
                            tab.look()
                            rows.append(load_row(tab, repeats))
                        with Tab(browser, page.origin) as tab:
                            tab.look()
                            path = write_rows(folder / "rows.jsonl", many_rows(NUM_TOKENS))
                            rows += frame_rows(tab, path)
        return rows


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="loads of the page")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.repeats)
    print(table(rows, ("part", "what", "p50", "p95", "most", "count", "goal_ms", "goal")))
    chromium = subprocess.run(["chromium", "--version"], capture_output=True, text=True)
    command = f"PYTHONPATH=tests python benchmarks/bench_page.py --repeats {arguments.repeats}"
    facts = {"chromium": chromium.stdout.split(" built")[0].strip()}
    print(write_result("page", command, rows, arguments.output, facts=facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
