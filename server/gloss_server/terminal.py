"""What people see on their terminal: safe text, progress, one line for an error or a summary.

Explanations, tokens and file names are other people's text: control characters are made visible
and rich markup is never interpreted. What the lines say is for the commands.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gloss_server.command_error import OutputError

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Control, format (bidi overrides among them), surrogate, private use, line and paragraph ends.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str) -> str:
    """The text with every character that a terminal would obey rather than show as an escape."""
    return "".join(_visible(char) for char in text)


def _visible(char: str) -> str:
    if char.isascii() and char.isprintable():
        return char
    if unicodedata.category(char) not in _HIDDEN:
        return char
    code = ord(char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def say(line: str) -> None:
    """One line for people, on stderr: stdout is for what was asked for."""
    print(visible(line), file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> None:
    """Lines for scripts, on stdout, at once.

    Raises:
        OutputError: they cannot be written.
    """
    with _writing_stdout():
        for line in lines:
            print(line)


def flush_stdout() -> None:
    """Write what is left, rather than let the interpreter do so at its end.

    Raises:
        OutputError: it cannot be written.
    """
    with _writing_stdout():
        pass


@contextmanager
def _writing_stdout() -> Iterator[None]:
    """Turns a failed write to stdout into an OutputError; all is written when the body ends."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Else the interpreter tries again when it ends, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        gone = isinstance(error, BrokenPipeError)
        reason = "nobody reads it any more" if gone else error.strerror
        raise OutputError(f"stdout: {reason}") from None


def print_page(page: RenderableType, console: Console) -> None:
    """Print on stdout at the console's width, without the blanks that tables pad lines with.

    Raises:
        OutputError: it cannot be written.
    """
    with _writing_stdout():
        with console.capture() as capture:
            console.print(page, highlight=False, markup=False)
        for line in capture.get().splitlines():
            console.file.write(f"{line.rstrip()}\n")


@contextmanager
def interrupt_deferred() -> Iterator[None]:
    """Let the body finish before a Ctrl-C takes effect.

    Off the main thread there is none, and a background job that ignores it goes on to.
    """
    off_main = threading.current_thread() is not threading.main_thread()
    if off_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt


class RunProgress:
    """Progress of a command on stderr: a bar on a terminal, nothing elsewhere.

    Args:
        console: where it is drawn; None: stderr.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self.is_shown = self._console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self.is_shown,
        )

    def note(self, line: str) -> None:
        """A line above the bar; terminals only."""
        if self.is_shown:
            self._console.print(visible(line), markup=False, highlight=False)

    @contextmanager
    def stage(self, description: str, total: float | None = None) -> Iterator[Stage]:
        """Show a stage while the body runs; `total` is what its `advance` counts to."""
        with self._progress:
            task = self._progress.add_task(visible(description), total=total, detail="")
            try:
                yield Stage(self._progress, task)
            finally:
                self._progress.refresh()
                self._progress.remove_task(task)


class Stage:
    """One bar of a RunProgress."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self._started

    def advance(self, amount: float, detail: str | None = None) -> None:
        """Count `amount` more, and say `detail` beside the bar."""
        if detail is None:
            self._progress.update(self._task, advance=amount)
        else:
            self._progress.update(self._task, advance=amount, detail=detail)
