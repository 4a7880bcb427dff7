"""A table of tokens with their explanations: whole for a page, or a window of it while it fills.

While it fills every explanation has as many lines, so that what fits is known: the end of one that
still grows, the beginning of one that is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gloss_server.display.evidence_cells import cosine_cell, explanation_cell, fve_cell, mark_cell
from gloss_server.display.explanation_table import TableLayout, TableRow, explanation_table, fitting
from gloss_server.display.text_view import Said
from gloss_server.terminal import visible

_TOKEN_WIDTH = 14
_NUMBER_WIDTHS = (6, 5)
"""Of most: columns stay where they are while it fills."""
_MORE = "…"
_WIDE = 140
"""Columns from which on most explanations say enough in one line."""


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """A line of the table.

    Attributes:
        position: of the token in the text.
        token: its text.
        said: its explanation; None: there is none.
        note: why there is none.
    """

    position: int
    token: str
    said: Said | None = None
    note: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether nothing comes any more."""
        return self.said is None or self.said.made is not None


def rows_of(said: Sequence[Said]) -> list[TokenRow]:
    """Lines of activations, in the order of the text."""
    in_order = sorted(said, key=lambda one: (one.place.position, one.sample))
    return [
        TokenRow(position=one.place.position, token=one.place.token, said=one) for one in in_order
    ]


def token_table(rows: Sequence[TokenRow], width: int, *, with_lag: bool = False) -> Table:
    """All of it; explanations take the lines they need."""
    shown = [_table_row(row, with_lag, _said(row)) for row in rows]
    return explanation_table(shown, _layout(shown, width, with_lag))


def window(
    rows: Sequence[TokenRow], width: int, num_lines: int, *, with_lag: bool = False
) -> Table:
    """As much as fits into so many lines, around the first explanation that still grows."""
    lines_each = 1 if width >= _WIDE else 2
    shown = [
        _table_row(row, with_lag, _Lines(_said(row), lines_each, is_growing=not row.is_finished))
        for row in rows
    ]
    layout = _layout(shown, width, with_lag)
    room = max((num_lines - layout.num_head_lines) // (lines_each + layout.lines_above), 1)
    growing = (index for index, row in enumerate(rows) if not row.is_finished)
    first = next(growing, len(rows))
    start = max(min(first - room // 2, len(rows) - room), 0)
    return explanation_table(shown[start : start + room], layout)


def _layout(rows: Sequence[TableRow], width: int, with_lag: bool) -> TableLayout:
    told_title = "lag" if with_lag else "cosine"
    return fitting(
        rows,
        width,
        token_width=_TOKEN_WIDTH,
        told_title=told_title,
        least_widths=_NUMBER_WIDTHS,
        has_positions=True,
    )


def _table_row(row: TokenRow, with_lag: bool, said: RenderableType) -> TableRow:
    position, token = _head(row)
    told, fve, mark = _evidence(row, with_lag)
    return TableRow(position=position, token=token, said=said, told=told, fve=fve, mark=mark)


def _head(row: TokenRow) -> tuple[Text, Text]:
    if row.said is not None and row.said.sample > 0:
        return Text(), Text()
    return Text(str(row.position)), Text(shown_token(row.token), style="bold")


def shown_token(token: str) -> str:
    """A token alone: the blank it may begin with is not told apart."""
    return visible(token.strip(" ") or token.replace(" ", "␣"))


def _said(row: TokenRow) -> Text:
    if row.said is None:
        return Text(row.note, style="dim italic")
    if row.said.made is None:
        return Text(visible(row.said.growing), style="dim")
    return explanation_cell(row.said.made)


def _evidence(row: TokenRow, with_lag: bool) -> tuple[Text, Text, Text]:
    made = None if row.said is None else row.said.made
    if made is None:
        return Text(), Text(), Text()
    told = cosine_cell(made.cosine)
    if with_lag:
        told = Text("" if made.lag_seconds is None else f"{made.lag_seconds:.2f} s")
    return told, fve_cell(made.fve), mark_cell(made)


class _Lines:
    """A text in so many lines, neither more nor fewer.

    Args:
        text: without line ends.
        num_lines: how many.
        is_growing: where it is longer, its end is shown rather than its beginning.
    """

    def __init__(self, text: Text, num_lines: int, is_growing: bool) -> None:
        self._text, self._num_lines, self._is_growing = text, num_lines, is_growing

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # One cell less: what is left out is marked.
        lines = list(self._text.wrap(console, max(options.max_width - 1, 1), overflow="fold"))
        shown = lines[-self._num_lines :] if self._is_growing else lines[: self._num_lines]
        if len(shown) < len(lines) and self._is_growing:
            shown[0] = Text.assemble(_MORE, shown[0], style=self._text.style)
        elif len(shown) < len(lines):
            shown[-1].rstrip()
            shown[-1] = Text.assemble(shown[-1], _MORE, style=self._text.style)
        yield from shown
        yield from [Text()] * (self._num_lines - len(shown))
