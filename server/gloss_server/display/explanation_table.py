"""A table of explanations that fits its width: numbers give way before the text does.

Numbers are shown whole or not at all. Where even the text alone has too little beside the token,
it has lines of its own below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

_LEAST_TEXT, _LEAST_TOKEN = 20, 6
"""Columns that an explanation, and a token above it, has before a number has any."""
_GAP = 3
_FVE = "FVE"


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """An explanation's line of the table.

    Attributes:
        position: of the token, where positions are shown; empty for all samples but the first.
        token: likewise.
        before: words before it, left out where there is no room for both.
        said: the explanation.
        told: what the second to last column has of it: its cosine, say.
        fve: its FVE.
        mark: set where there is a warning.
    """

    position: Text | None = None
    token: Text
    before: Text = field(default_factory=Text)
    said: RenderableType
    told: Text
    fve: Text
    mark: Text


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """What of a table there is room for.

    Attributes:
        width: of all of it.
        position_width: of the positions; None: there are none.
        token_width: of the tokens, unless the explanations stand below them.
        told_width, fve_width: of the numbers; None: no room.
        told_title: of the second to last column.
        is_stacked: explanations stand below their tokens.
    """

    width: int
    position_width: int | None
    token_width: int
    told_width: int | None
    fve_width: int | None
    told_title: str
    is_stacked: bool

    @property
    def num_head_lines(self) -> int:
        """Lines above the first row."""
        return 0 if self.is_stacked else 2

    @property
    def lines_above(self) -> int:
        """Lines that a row has above its explanation."""
        return 1 if self.is_stacked else 0


def fitting(
    rows: Sequence[TableRow],
    width: int,
    *,
    token_width: int,
    told_title: str,
    least_widths: tuple[int, int] = (0, 0),
    has_positions: bool = False,
) -> TableLayout:
    """The layout of rows for a width.

    Args:
        rows: all that are, or will be, shown.
        width: of the terminal.
        token_width, told_title: see TableLayout.
        least_widths: of the columns of numbers, whatever is in them by now.
        has_positions: whether rows have them.
    """
    positions = [row.position.cell_len for row in rows if row.position is not None]
    position_width = max([1, *positions]) if has_positions else None
    least_told, least_fve = least_widths
    told = max([least_told, len(told_title), *(row.told.cell_len for row in rows)])
    fve = max([least_fve, len(_FVE), *(row.fve.cell_len for row in rows)])
    left = width - token_width - _GAP - _GAP - 1
    left -= 0 if position_width is None else position_width + _GAP
    has_told = left - (told + _GAP) - (fve + _GAP) >= _LEAST_TEXT
    has_fve = left - (fve + _GAP) >= _LEAST_TEXT
    return TableLayout(
        width=width,
        position_width=position_width,
        token_width=token_width,
        told_width=told if has_told else None,
        fve_width=fve if has_fve else None,
        told_title=told_title,
        is_stacked=left < _LEAST_TEXT,
    )


def explanation_table(rows: Sequence[TableRow], layout: TableLayout) -> Table:
    """The table of rows, or of some of those that the layout was made for."""
    return _stacked(rows, layout) if layout.is_stacked else _columns(rows, layout)


def _columns(rows: Sequence[TableRow], layout: TableLayout) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    if layout.position_width is not None:
        width = layout.position_width
        table.add_column("#", justify="right", no_wrap=True, style="dim", min_width=width)
    table.add_column("token", no_wrap=True, width=layout.token_width, overflow="ellipsis")
    table.add_column("explanation", ratio=1, overflow="fold")
    for title, number_width in ((layout.told_title, layout.told_width), (_FVE, layout.fve_width)):
        if number_width is not None:
            table.add_column(title, justify="right", no_wrap=True, width=number_width)
    table.add_column("", width=1)
    for row in rows:
        cells = [] if row.position is None else [row.position]
        numbers = ((row.told, layout.told_width), (row.fve, layout.fve_width))
        shown = [number for number, number_width in numbers if number_width is not None]
        table.add_row(*cells, Text.assemble(row.before, row.token), row.said, *shown, row.mark)
    return table


def _stacked(rows: Sequence[TableRow], layout: TableLayout) -> Table:
    table = Table.grid(expand=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(_above(row, layout))
        table.add_row(row.said)
    return table


def _above(row: TableRow, layout: TableLayout) -> Text:
    """The line above an explanation: its token, cut to what the numbers leave, and what fits."""
    begin = Text()
    if row.position is not None and row.position.cell_len > 0:
        begin = Text.assemble((row.position.plain, "dim"), " ")
    end = Text.assemble(" ", row.mark) if row.mark.cell_len > 0 else Text()
    fve = Text.assemble(f" {_FVE} ", row.fve) if row.fve.cell_len > 0 else Text()
    if layout.width - begin.cell_len - fve.cell_len - end.cell_len >= _LEAST_TOKEN:
        end = Text.assemble(fve, end)
    token, room = row.token.copy(), max(layout.width - begin.cell_len - end.cell_len, 1)
    if row.before.cell_len + token.cell_len <= room:
        begin = Text.assemble(begin, row.before)
        room -= row.before.cell_len
    token.truncate(room, overflow="ellipsis")
    return Text.assemble(begin, token, end)
