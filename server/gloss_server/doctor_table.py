"""How the doctor's findings look: a table for people, a list of objects for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gloss_server.check import Check, Status
from gloss_server.terminal import visible

_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """Print a table of checks and a line that counts them."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", ratio=2, overflow="fold")
    table.add_column("got", ratio=3, overflow="fold")
    table.add_column("expected", ratio=2, overflow="fold")
    table.add_column("fix", ratio=3, overflow="fold")
    for check in checks:
        table.add_row(
            Text(check.status, style=_STYLES[check.status]),
            Text(visible(check.name)),
            Text(visible(check.got)),
            Text(visible(check.expected)),
            Text(visible(check.fix)),
        )
    counts = Counter(check.status for check in checks)
    summary = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    console.print(table, markup=False, highlight=False)
    console.print(Text(f"\n{summary}"), markup=False, highlight=False)


def checks_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON list of {name, status, got, expected, fix}."""
    return json.dumps([asdict(check) for check in checks], indent=2)
