"""How the doctor's findings look: a table for people, a list of objects for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gloss_server.commands.doctor.check import Check, Status
from gloss_server.terminal import print_page, visible

_STYLES: dict[Status, str] = {"pass": "green", "warn": "yellow", "fail": "bold red"}


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """Print a table of checks and a line that counts them."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("check", ratio=1, overflow="fold")
    table.add_column("found", ratio=2, overflow="fold")
    for check in checks:
        style = _STYLES[check.status]
        table.add_row(Text(check.status, style=style), Text(visible(check.name)), _found(check))
    counts = Counter(check.status for check in checks)
    summary = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    print_page(Group(table, Text(), Text(summary)), console)


def _found(check: Check) -> Text:
    """What was got; what was expected and the fix below it, where there is something to say."""
    text = Text(visible(check.got))
    advice = "note" if check.status == "pass" else "fix"
    for label, value in (("expected", check.expected), (advice, check.fix)):
        if value:
            text.append(f"\n{label}: ", style="dim").append(visible(value))
    return text


def checks_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON list of {name, status, got, expected, fix}."""
    return json.dumps([asdict(check) for check in checks], indent=2)
