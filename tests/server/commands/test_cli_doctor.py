"""`gloss doctor`: a table for people, a list for scripts, a status for both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gloss_server.commands.doctor.check import Check
from support.checkpoints import Pair
from support.command_runs import Command

CHECKS = [
    Check(name="sidecar", status="pass", got="kind nla_model"),
    Check(name="weights [bold]", status="warn", got="\x1b[31mred", expected="plain", fix="look"),
    Check(name="marker", status="fail", got="2 matches", expected="1", fix="take another release"),
]


def test_a_healthy_pair_passes(gloss: Command, small_pair: Pair) -> None:
    ended = gloss("doctor", small_pair.av.parent)
    assert ended.status == 0 and "pass" in ended.stdout and ended.stderr == ""
    listed = gloss("doctor", small_pair.av.parent, "--json")
    assert listed.status == 0
    checks = json.loads(listed.stdout)
    assert all(list(check) == ["name", "status", "got", "expected", "fix"] for check in checks)
    assert any(check["name"].startswith("av: ") for check in checks)


def test_a_missing_directory_fails(gloss: Command, tmp_path: Path) -> None:
    assert gloss("doctor", tmp_path / "none").status == 1
    listed = gloss("doctor", tmp_path / "none", "--json")
    assert listed.status == 1
    assert "fail" in {check["status"] for check in json.loads(listed.stdout)}


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_everything_and_obeys_nothing(
    gloss: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    monkeypatch.setattr(
        "gloss_server.commands.doctor.examination.examine", lambda directory: CHECKS
    )
    monkeypatch.setenv("COLUMNS", str(width))
    ended = gloss("doctor", tmp_path)
    assert ended.status == 1
    assert max(map(len, ended.stdout.splitlines())) <= width
    squeezed = "".join(ended.stdout.split())
    for text in ("weights[bold]", "\\x1b[31mred", "2matches", "expected:plain", "fix:look"):
        assert text in squeezed
    assert "\x1b" not in ended.stdout
    assert ended.stdout.splitlines()[-1] == "1 pass, 1 warn, 1 fail"


def test_warnings_do_not_fail(
    gloss: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "gloss_server.commands.doctor.examination.examine", lambda directory: CHECKS[:2]
    )
    assert gloss("doctor", tmp_path).status == 0
