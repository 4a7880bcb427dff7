"""`gloss explain` on a terminal: a table that fills, and what is left of it at the end."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from gloss_client import Captured, Explanation, TextDelta, TokenPlace
from gloss_server.commands.explain.show import TableShow
from gloss_server.sources.text_source import Came, TextEnded
from support.echo_server import EchoServer, echo_server
from support.explain_runs import HOSTILE
from support.screen import Screen


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


def test_a_table_fills_on_a_terminal(screen: Callable[..., Screen], echo: EchoServer) -> None:
    echo.service.step_seconds = 0.4
    shown = screen("explain", "abcdef", "--address", echo.address, "--seed", "4")
    shown.until(lambda seen: "0 of 7 explained" in seen and "token" in seen)
    shown.until(lambda seen: "mean FVE" in seen)
    assert shown.end() == 0
    last = shown.seen.rpartition("of 7 explained")[2]
    assert "7 explanations" in last and "seed 4" in last
    # The live page was taken away: cleared line by line.
    assert "\x1b[2K" in last


def test_an_interrupt_leaves_the_table_of_what_there_is(
    screen: Callable[..., Screen], echo: EchoServer
) -> None:
    echo.service.step_seconds = 0.3
    shown = screen("explain", "abcdef", "--address", echo.address)
    shown.until(lambda seen: "0 of 7 explained" in seen)
    echo.service.step_seconds = 30
    shown.interrupt()
    assert shown.end() == 130
    assert "0 explanations" in shown.seen and "error: interrupted" in shown.seen
    assert "No --seed: drew" in shown.seen


def _place(position: int, token: str) -> TokenPlace:
    return TokenPlace(position=position, token_id=1, token=token, norm=1.0, layer_index=2)


def test_a_long_text_shows_what_fits_while_it_fills_and_all_at_the_end() -> None:
    """Hostile tokens and explanations, on a terminal with colours."""
    file = io.StringIO()
    console = Console(file=file, width=80, height=20, force_terminal=True, color_system="standard")
    show = TableShow(console)
    show.begin(1, 9, {0: HOSTILE})
    places = [_place(position, f"t{position}\x1b[2J") for position in range(60)]
    show.take([Came(row=0, event=Captured(index=i, place=p)) for i, p in enumerate(places)])
    for index, place in enumerate(places):
        delta = TextDelta(index=index, sample=0, token_ids=(1,), text=f"<explanation>grows {index}")
        show.take([Came(row=0, event=delta)])
        made = Explanation(
            index=index,
            sample=0,
            explanation=f"said {index}. " * 20 + "[red]\x1b]0;x\x07",
            finish_reason="eos",
            cosine=0.9,
            fve=0.8,
            flags=("unclosed", "\x1b[5mnew"),
            place=place,
        )
        show._page._drawn_at = 0.0
        show.take([Came(row=0, event=made)])
    live = file.getvalue()
    show.take([Came(row=0, event=TextEnded())])
    show.end()
    for hostile in ("\x1b[2J", "\x1b]0;x", "\x07", "\x1b[5m"):
        assert hostile not in file.getvalue()
    whole = file.getvalue()[len(live) :]
    assert all(f"t{position}\\x1b[2J" in whole for position in range(60))
    assert "[red]" in whole and "60 unclosed" in whole and "60 explanations" in whole
    frames = live.split("of 60 explained")
    assert len(frames) > 50 and max(frame.count("\n") for frame in frames) <= 20
    assert "t59\\x1b" not in frames[3] and "t59\\x1b" in frames[-2]


@pytest.mark.parametrize(
    ("width", "titles", "shown"),
    [
        (80, ["#", "token", "explanation", "cosine", "FVE"], "-0.912   -10.84"),
        (60, ["#", "token", "explanation", "FVE"], " -10.84"),
        (50, ["#", "token", "explanation"], None),
        (40, None, "0 tailor FVE -10.84 !"),
        (30, None, "0 tailor FVE -10.84 !"),
        (24, None, "0 tailor FVE -10.84 !"),
        (22, None, "0 tailor FVE -10.84 !"),
        (21, None, "0 tailor FVE -10.84 !"),
        (20, None, "0 tailor !"),
        (12, None, "0 tailor !"),
    ],
)
def test_numbers_give_way_before_the_explanation_does(
    width: int, titles: list[str] | None, shown: str | None
) -> None:
    """While it fills, and at its end."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=20, force_terminal=True, color_system=None)
    show = TableShow(console)
    show.begin(1, 9, None)
    place = _place(0, " tailor")
    made = Explanation(
        index=0,
        sample=0,
        explanation="He is a tailor.",
        finish_reason="eos",
        cosine=-0.912,
        fve=-10.84,
        flags=("unclosed",),
        place=place,
    )
    show.take([Came(row=0, event=Captured(index=0, place=place)), Came(row=0, event=made)])
    live = file.getvalue()
    show.end()
    for page in (live, file.getvalue()[len(live) :].partition("mean")[0]):
        lines = re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", page).splitlines()
        assert "is a tailor." in page or ("He is a" in page and "tailor." in page)
        assert page.count("-10") == page.count("-10.84")
        assert ("-10" in page) == (shown is not None and "-10" in shown)
        assert "-0.9" not in page or "-0.912 " in page
        assert shown is None or shown in page
        assert (titles is None) == (not any("explanation" in line for line in lines))
        assert titles is None or any(line.split()[-len(titles) :] == titles for line in lines)
