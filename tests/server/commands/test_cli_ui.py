"""`gloss ui` and `gloss demo --ui`: what they refuse before anything is started."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gloss_server.commands import ui as ui_command
from support.command_runs import Command

TAKEN = "cannot listen there: Address already in use. Name another address"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address at which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("command", [("ui",), ("demo", "--ui")])
def test_a_port_that_is_taken_is_said(gloss: Command, taken: str, command: tuple[str]) -> None:
    ended = gloss(*command, "--listen", taken)
    assert ended.status == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: --listen {taken}: {TAKEN}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("ui",), ("demo", "--ui")])
def test_the_extra_that_is_missing_is_named(
    gloss: Command, monkeypatch: pytest.MonkeyPatch, command: tuple[str]
) -> None:
    monkeypatch.setattr(ui_command, "find_spec", lambda name: None if name == "uvicorn" else sys)
    ended = gloss(*command)
    assert ended.status == 2
    assert ended.stderr == "error: the page needs uvicorn: pip install 'gloss-nla[ui]'\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--listen", "8080"), "--listen: got '8080', expected HOST:PORT or [IPV6]:PORT"),
        (("--listen", "127.0.0.1:99999"), "--listen: got '127.0.0.1:99999', expected"),
        (("--listen", "unix:/tmp/page"), "--listen: got 'unix:/tmp/page', expected"),
        (("--listen", "192.0.2.1:0"), "--listen 192.0.2.1:0: cannot listen there: Cannot assign"),
        (("--address", "nowhere"), "cannot connect: address: got 'nowhere', expected host:port"),
        (("--tls-cert", "/none"), "cannot connect: tls: cert_file and key_file belong together"),
    ],
)
def test_options_that_cannot_work_are_refused(gloss: Command, flags: tuple[str], said: str) -> None:
    ended = gloss("ui", "--listen", "127.0.0.1:0", *flags)
    assert ended.status == 2 and ended.stdout == ""
    assert said in ended.stderr


@pytest.mark.parametrize("by", ["flag", "GLOSS_TOKEN", "GLOSS_TOKEN_FILE"])
@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "page.example:80"])
def test_a_token_is_not_lent_to_everybody(
    gloss: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str, listen: str
) -> None:
    (tmp_path / "token").write_text("s3cret")
    flags: tuple[object, ...] = ("--token-file", tmp_path / "token") if by == "flag" else ()
    if by != "flag":
        monkeypatch.setenv(by, "s3cret" if by == "GLOSS_TOKEN" else str(tmp_path / "token"))
    ended = gloss("ui", "--listen", listen, *flags)
    assert ended.status == 2 and "everybody who reaches the page would use" in ended.stderr
    assert "s3cret" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ui", "--all"), "--ui: got --all with it, expected it alone"),
        (("--ui", "a text", "--samples", 2), "--ui: got TEXT and --samples with it"),
        (("--ui", "--story", 2, "--seed", 1), "--ui: got --story and --seed with it"),
        (("--listen", "127.0.0.1:0"), "--listen: got it without --ui, expected both"),
    ],
)
def test_what_the_demos_page_would_ignore_is_refused(
    gloss: Command, flags: tuple[object], said: str
) -> None:
    ended = gloss("demo", *flags)
    assert ended.status == 2 and said in ended.stderr
