"""docs/security.md: the tests it names are there, its file of clients is one, its links lead on."""

from __future__ import annotations

import re
from pathlib import Path

from gloss_server.front.token_file import read_tokens

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()


def test_every_test_it_names_is_there() -> None:
    table = TEXT.split("| threat | defence | test |", 1)[1].split("\n\n", 1)[0]
    rows = [line.split("|")[3] for line in table.splitlines()[2:]]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`([\w/.]*)::(test_\w+)`", row)
        assert named and row.count("`") == 2 * len(named), row
        path = ""
        for file, name in named:
            path = file or path
            assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"


def test_its_file_of_clients_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "tokens.toml").write_text(example)
    assert len(read_tokens(tmp_path / "tokens.toml")) == 3


def test_it_is_found() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "service.md"):
        assert "security.md" in page.read_text()
