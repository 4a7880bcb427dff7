"""Files that change under a server: taken over, refused once, and what held before goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from gloss_server.command_error import CommandError
from gloss_server.front.watched_files import WatchedFiles


def replace(path: Path, text: str) -> None:
    """As editors and rotations do; another file, so another signature whatever the clock says."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.rename(path)


def read(*paths: Path) -> str:
    texts = [path.read_text() if path.exists() else "" for path in paths]
    if "" in texts or "bad" in texts:
        raise CommandError(f"got {texts}")
    return "+".join(texts)


def test_a_change_is_taken_over_or_refused_and_told_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    told: list[str | None] = []
    files = WatchedFiles([one, two], lambda: read(one, two), told.append)
    assert [files.current(), files.current()] == ["1+2", "1+2"] and told == []
    replace(two, "3")
    assert files.last == "1+2"
    assert [files.current(), files.current()] == ["1+3", "1+3"] and told == [None]
    replace(one, "bad")
    assert [files.current(), files.current()] == ["1+3", "1+3"]
    two.unlink()
    assert [files.current(), files.current()] == ["1+3", "1+3"]
    replace(two, "4")
    assert files.current() == "1+3"
    assert told == [None, *(f"got {['bad', text]}" for text in ("3", "", "4"))]
    replace(one, "5")
    assert files.current() == files.last == "5+4" and told[4:] == [None]


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes replaces the files of a secret."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    link = tmp_path / "link"
    link.symlink_to("a")
    told: list[str | None] = []
    files = WatchedFiles([link / "file"], lambda: read(link / "file"), told.append)
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").rename(link)
    assert files.current() == "b" and told == [None]


def test_what_cannot_be_used_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        WatchedFiles([tmp_path / "x"], lambda: read(tmp_path / "x"), lambda problem: None)
