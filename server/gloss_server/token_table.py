"""A table of tokens with their explanations: whole for a page, or a window of it while it fills.

While it fills every explanation has one line, so that what fits is known: the end of one that still
grows, the beginning of one that is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gloss_server.evidence_cells import cosine_cell, explanation_cell, fve_cell, mark_cell
from gloss_server.terminal import visible
from gloss_server.text_view import Said

_TOKEN_WIDTH = 14
_HEAD_LINES = 2
_MORE = "…"


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


def token_table(rows: Sequence[TokenRow], *, with_lag: bool = False) -> Table:
    """All of it; explanations take the lines they need."""
    return _table(rows, with_lag, one_line=False)


def window(rows: Sequence[TokenRow], num_lines: int, *, with_lag: bool = False) -> Table:
    """As much as fits into so many lines, around the first explanation that still grows."""
    room = max(num_lines - _HEAD_LINES, 1)
    growing = (index for index, row in enumerate(rows) if not row.is_finished)
    first = next(growing, len(rows))
    start = max(min(first - room // 3, len(rows) - room), 0)
    return _table(rows[start : start + room], with_lag, one_line=True)


def _table(rows: Sequence[TokenRow], with_lag: bool, one_line: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True, style="dim")
    table.add_column("token", no_wrap=True, width=_TOKEN_WIDTH, overflow="ellipsis")
    table.add_column("explanation", ratio=1, no_wrap=one_line, overflow="fold")
    table.add_column("lag" if with_lag else "cosine", justify="right", no_wrap=True, min_width=6)
    table.add_column("FVE", justify="right", no_wrap=True, min_width=5)
    table.add_column("", width=1)
    for row in rows:
        table.add_row(*_head(row), *_body(row, with_lag, one_line))
    return table


def _head(row: TokenRow) -> tuple[Text, Text]:
    if row.said is not None and row.said.sample > 0:
        return Text(), Text()
    return Text(str(row.position)), Text(shown_token(row.token), style="bold")


def shown_token(token: str) -> str:
    """A token alone: the blank it may begin with is not told apart."""
    return visible(token.strip(" ") or token.replace(" ", "␣"))


def _body(
    row: TokenRow, with_lag: bool, one_line: bool
) -> tuple[_OneLine | Text, Text, Text, Text]:
    if row.said is None:
        return Text(row.note, style="dim italic"), Text(), Text(), Text()
    made = row.said.made
    if made is None:
        growing = Text(visible(row.said.growing), style="dim")
        return _OneLine(growing, is_growing=True) if one_line else growing, Text(), Text(), Text()
    text = explanation_cell(made)
    told = cosine_cell(made.cosine)
    if with_lag:
        told = Text("" if made.lag_seconds is None else f"{made.lag_seconds:.2f} s")
    cell = _OneLine(text, is_growing=False) if one_line else text
    return cell, told, fve_cell(made.fve), mark_cell(made)


class _OneLine:
    """A text cut to one line.

    Args:
        text: without line ends.
        is_growing: its end is shown rather than its beginning.
    """

    def __init__(self, text: Text, is_growing: bool) -> None:
        self._text, self._is_growing = text, is_growing

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, plain = options.max_width, self._text.plain
        if cell_len(plain) <= width:
            yield self._text
        elif self._is_growing:
            # A character is a cell at least.
            tail = plain[1 - width :]
            while cell_len(tail) > width - 1:
                tail = tail[1:]
            yield Text(f"{_MORE}{tail}", style=self._text.style, no_wrap=True)
        else:
            head = set_cell_size(plain, width - 1)
            yield Text(f"{head}{_MORE}", style=self._text.style, no_wrap=True)
