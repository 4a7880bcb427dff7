"""Explanations of texts on stdout: a table that fills on a terminal, plain lines elsewhere.

Texts are shown in the order of the input, each once those before it are finished.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.text import Text

from gloss_client import Explanation
from gloss_server.display.evidence_cells import legend, mean_fve
from gloss_server.display.live_page import LivePage
from gloss_server.display.text_view import TextView
from gloss_server.display.token_table import rows_of, token_table, window
from gloss_server.sources.text_source import Came
from gloss_server.terminal import print_lines, print_page, visible

_STATUS_LINES = 2


_COLUMNS = ("position", "token", "sample", "explanation", "cosine", "fve", "flags")


class Show(Protocol):
    """Where explanations are shown."""

    def begin(self, num_samples: int, seed: int, names: Mapping[int, str] | None) -> None:
        """Texts will come.

        Args:
            num_samples: explanations of an activation.
            seed: of the draws.
            names: of texts, by number, known before they come; None: one text without a name.
        """

    def take(self, came: Sequence[Came]) -> None:
        """Show what came."""

    def end(self) -> None:
        """Nothing comes any more, be it for Ctrl-C: show what was not shown yet."""


class _Texts:
    """Texts in the order of the input.

    Attributes:
        first: number of the first that is not finished; those before it have been shown.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples, self.first = num_samples, 0
        self._views: dict[int, TextView] = {}

    @property
    def current(self) -> TextView:
        """The first that is not finished."""
        return self._view(self.first)

    def take(self, came: Sequence[Came]) -> None:
        """Note what came."""
        for one in came:
            self._view(one.row).take(one.event)

    def leave(self) -> None:
        """The current one has been shown to its end."""
        del self._views[self.first]
        self.first += 1

    def _view(self, row: int) -> TextView:
        return self._views.setdefault(row, TextView(self._num_samples))


class TableShow:
    """A table for each text, drawn while it fills.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._page = console, LivePage(console, self._live)
        self._texts, self._seed = _Texts(1), 0
        self._names: Mapping[int, str] | None = None
        self._made: list[Explanation] = []
        self._started = time.monotonic()

    def begin(self, num_samples: int, seed: int, names: Mapping[int, str] | None) -> None:
        """See Show."""
        self._texts, self._seed, self._names = _Texts(num_samples), seed, names
        self._started = time.monotonic()
        self._page.begin()

    def take(self, came: Sequence[Came]) -> None:
        """See Show."""
        self._made += [one.event for one in came if isinstance(one.event, Explanation)]
        self._texts.take(came)
        while self._texts.current.has_ended:
            with self._page.aside():
                self._print_current()
            self._texts.leave()
        if self._texts.current.said:
            self._page.touch()

    def end(self) -> None:
        """See Show."""
        self._page.end()
        if self._texts.current.said:
            self._print_current()
        notes = legend(self._made)
        print_page(Group(*notes, *([Text()] if notes else []), self._summary()), self._console)

    def _print_current(self) -> None:
        view = self._texts.current
        parts: list[RenderableType] = [*self._title(), self._table(view), Text()]
        if view.error is not None:
            said = f"{view.error.reason}: {view.error.message}"
            parts = [*self._title(), Text(visible(said), style="red"), Text()]
        print_page(Group(*parts), self._console)

    def _table(self, view: TextView) -> RenderableType:
        return token_table(rows_of(view.said), self._console.width)

    def _live(self, num_lines: int) -> RenderableType:
        view, title = self._texts.current, self._title()
        left = num_lines - len(title) - _STATUS_LINES
        table = window(rows_of(view.said), self._console.width, left)
        status = f"{len(view.made):,} of {len(view.said):,} explained"
        return Group(*title, table, Text(), Text(status, style="dim"))

    def _title(self) -> list[Text]:
        if self._names is None:
            return []
        return [Text(visible(self._names.get(self._texts.first, "")), style="bold")]

    def _summary(self) -> Text:
        mean, count = mean_fve(self._made), len(self._made)
        rate = count / max(time.monotonic() - self._started, 1e-9)
        return Text.assemble(
            ("mean FVE ", "dim"),
            ("-" if mean is None else f"{mean:.2f}", "bold"),
            (f"  {count:,} explanations, {rate:,.0f}/s, seed {self._seed}", "dim"),
        )


class LineShow:
    """Tab-separated lines, the first names the columns; each as soon as those before it are there.

    Tabs and line ends in a text are escapes, so that a line is an explanation whatever it says.
    """

    def __init__(self) -> None:
        self._texts, self._num_shown = _Texts(1), 0
        self._names: Mapping[int, str] | None = None

    def begin(self, num_samples: int, seed: int, names: Mapping[int, str] | None) -> None:
        """See Show."""
        self._texts, self._names = _Texts(num_samples), names
        print_lines(["\t".join([*([] if names is None else ["doc_id"]), *_COLUMNS])])

    def take(self, came: Sequence[Came]) -> None:
        """See Show."""
        self._texts.take(came)
        lines = self._fresh()
        while self._texts.current.has_ended:
            error = self._texts.current.error
            if error is not None:
                nowhere = Explanation(index=0, sample=0, error=error)
                lines.append(self._line("", "", nowhere))
            self._texts.leave()
            self._num_shown = 0
            lines += self._fresh()
        print_lines(lines)

    def end(self) -> None:
        """See Show: all that was finished in its turn has been printed."""

    def _fresh(self) -> list[str]:
        """Lines of the current text that can be printed now."""
        lines = []
        for said in self._texts.current.said[self._num_shown :]:
            if said.made is None:
                break
            place = said.place
            lines.append(self._line(str(place.position), place.token, said.made))
        self._num_shown += len(lines)
        return lines

    def _line(self, position: str, token: str, made: Explanation) -> str:
        error = made.error
        said = made.explanation if error is None else f"{error.reason}: {error.message}"
        cells = [position, token, str(made.sample), said, _number(made.cosine), _number(made.fve)]
        cells.append(",".join(made.flags if error is None else ["error", *made.flags]))
        name = [] if self._names is None else [self._names.get(self._texts.first, "")]
        return "\t".join(map(visible, [*name, *cells]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
