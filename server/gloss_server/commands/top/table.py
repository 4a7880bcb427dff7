"""What `gloss top` shows of several servers: a line each, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gloss_server.commands.top.page import View, duration, shown, state
from gloss_server.terminal import visible

_Cell = Callable[[View], str]


def _latency(name: str, quantile: str) -> _Cell:
    def cell(view: View) -> str:
        found = [getattr(each, quantile) for each in view.stats.latencies if each.name == name]
        return duration(found[0]) if found else "-"

    return cell


_COLUMNS: tuple[tuple[str, int, _Cell], ...] = (
    ("running", 9, lambda view: f"{view.stats.running:,} / {view.stats.num_slots:,}"),
    ("waiting", 8, lambda view: f"{view.stats.waiting:,}"),
    ("tokens/s", 9, lambda view: f"{view.stats.tokens_per_second:,.0f}"),
    ("first p95", 10, _latency("first_token", "p95")),
    ("queue p99", 10, _latency("queue", "p99")),
    ("expl./s", 8, lambda view: f"{view.stats.explanations_per_second:,.1f}"),
    ("refused", 8, lambda view: f"{sum(count.count for count in view.stats.rejections):,}"),
    ("restarts", 8, lambda view: f"{view.stats.engine_restarts:,}"),
)
"""Name, width and what stands there, the first of them last to go where a terminal is narrow."""
_NAMES_WIDTH = 31


def table(views: Sequence[View], width: int) -> RenderableType:
    """A line for each server.

    Args:
        views: what is known of each.
        width: of the terminal.
    """
    columns, left = [], width - _NAMES_WIDTH
    for column in _COLUMNS:
        left -= column[1] + 3
        if left >= 0:
            columns.append(column)
    lines = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    lines.add_column("server", no_wrap=True, max_width=24)
    lines.add_column("state", no_wrap=True)
    for name, least, _ in columns:
        lines.add_column(name, justify="right", no_wrap=True, min_width=least)
    for view in views:
        cells = [Text(cell(view) if view.is_known else "") for _, _, cell in columns]
        said = state(view.stats) if view.trouble is None else Text("no answer", style="bold red")
        lines.add_row(Text(shown(view.address), style="bold"), said, *cells)
    parts: list[RenderableType] = [lines, Text(), Text(_sum(views))]
    for view in views:
        if view.trouble is not None:
            parts.append(Text(visible(f"{view.address}: {view.trouble}"), style="bold red"))
    return Group(*parts)


def _sum(views: Sequence[View]) -> str:
    """What those that answer do together."""
    stats = [view.stats for view in views if view.trouble is None]
    return (
        f"{len(stats)} of {len(views)} answer: {sum(each.running for each in stats):,} run, "
        f"{sum(each.waiting for each in stats):,} wait, "
        f"{sum(each.tokens_per_second for each in stats):,.0f} tokens/s, "
        f"{sum(each.explanations_per_second for each in stats):,.1f} explanations/s"
    )
