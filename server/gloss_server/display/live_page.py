"""A page that is drawn again while things happen, in place, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live

_SECONDS_A_FRAME = 0.08


class LivePage:
    """Draws into the terminal's lines below the cursor, and takes it all away at its end.

    Args:
        console: a terminal.
        page: the page of this moment for so many lines at most.
    """

    def __init__(self, console: Console, page: Callable[[int], RenderableType]) -> None:
        self._console, self._page = console, page
        self._live: Live | None = None
        self._drawn_at = float("-inf")

    def begin(self) -> None:
        """Draw from here on."""
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
        )
        self._live.start()

    def end(self) -> None:
        """Take away what was drawn; what is written next stands in its place."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the body writes stays, above what is drawn."""
        self.end()
        yield
        self.begin()

    def touch(self) -> None:
        """Something has happened: draw it, unless it was drawn just now."""
        now = time.monotonic()
        if self._live is not None and now - self._drawn_at >= _SECONDS_A_FRAME:
            # The cursor stands below the page.
            self._live.update(self._page(max(self._console.height - 1, 1)), refresh=True)
            self._drawn_at = now
