"""What reaches a terminal: hostile text as escapes, progress only where somebody watches."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gloss_server.terminal import RunProgress, interrupt_deferred, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/bold]", "plain [bold]text[/bold]"),
        ("naïve 河川 и 🙂", "naïve 河川 и 🙂"),
        ("a\x1b[31mb\x07", "a\\x1b[31mb\\x07"),
        ("one\ntwo\tthree\r", "one\\ntwo\\tthree\\r"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("a\u202eb\u2066\u200b", "a\\u202eb\\u2066\\u200b"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_hostile_text_is_shown_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_what_is_visible_stays_on_one_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


def _watch(is_terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=is_terminal, width=100)
    progress = RunProgress(console)
    progress.note("a [red]note\x1b")
    with progress.stage("Doing [bold]it[/bold]\x1b", 4) as stage:
        stage.advance(1, "1/4 rows, 2.0 explanations/s [/]")
    return file.getvalue()


def test_progress_is_for_terminals() -> None:
    assert _watch(is_terminal=False) == ""
    seen = _watch(is_terminal=True)
    assert "Doing [bold]it[/bold]\\x1b" in seen
    assert "1/4 rows, 2.0 explanations/s [/]" in seen
    assert "a [red]note\\x1b" in seen


@pytest.fixture
def interrupt_handler() -> Iterator[Callable[[Any], None]]:
    """Sets what SIGINT does; a shell's background jobs inherit that it does nothing."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_body(interrupt_handler: Callable[[Any], None]) -> None:
    interrupt_handler(signal.default_int_handler)
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupt_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored(interrupt_handler: Callable[[Any], None]) -> None:
    interrupt_handler(signal.SIG_IGN)
    with interrupt_deferred():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
