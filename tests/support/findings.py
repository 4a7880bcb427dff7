"""Reading the doctor's findings, and the edits that its tests break checkpoints with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gloss_server.commands.doctor.examination import Check, exit_code
from support.edits import edit_json, edit_sidecar

Edit = Callable[[Path], object]


def by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    return found


def failures(checks: dict[str, Check]) -> set[str]:
    failed = {name for name, check in checks.items() if check.status == "fail"}
    assert exit_code(list(checks.values())) == (1 if failed else 0)
    assert all(checks[name].expected and checks[name].fix for name in failed)
    return failed


def sidecar(edit: Callable[[dict[str, Any]], object]) -> Edit:
    return lambda directory: edit_sidecar(directory, edit)


def extraction(**values: Any) -> Edit:
    return sidecar(lambda meta: meta["extraction"].update(values))


def tokens(**values: Any) -> Edit:
    return sidecar(lambda meta: meta["tokens"].update(values))


def templates(**values: str) -> Edit:
    return sidecar(lambda meta: meta["prompt_templates"].update(values))


def config(name: str, **values: Any) -> Edit:
    return lambda directory: edit_json(directory / name, lambda loaded: loaded.update(values))


def chat_template(edit: Callable[[str], str]) -> Edit:
    def apply(directory: Path) -> None:
        path = directory / "chat_template.jinja"
        path.write_text(edit(path.read_text()))

    return apply
