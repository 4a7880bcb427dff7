"""What `gloss explain` refuses, and what fails alone: by a server that is made up, and here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.command_runs import Command, read_rows, write_rows
from support.echo_server import EchoServer, echo_server
from support.echo_service import Fault

LACKING = "positions: got 7, expected -1 to 0: the text has 1 tokens"
BEYOND = Fault(
    code=grpc.StatusCode.OUT_OF_RANGE,
    reason="POSITION_OUT_OF_RANGE",
    message=LACKING,
    field="positions",
)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "got nothing to read, expected TEXT or --file FILE"),
        (["abc", "-f", "x.txt"], "got TEXT and --file"),
        (["-f", "none.txt"], "--file none.txt: cannot read it: No such file"),
        (["-f", "none.jsonl"], "none.jsonl: got no such file"),
        (["abc", "--output", "out.parquet"], "got suffix '.parquet', expected .jsonl"),
        (["abc", "--positions", "some"], "positions: got 'some'"),
        (["abc", "--samples", "0"], "--samples: got 0"),
        (["abc", "--temperature", "-1"], "temperature: got -1.0"),
        (["no chat", "--chat"], "--chat: messages: got text that is no JSON"),
        (["abc", "--score"], "has no AR loaded"),
        (["abc", "--device", "cpu"], "--device without --local"),
        (["abc", "--local", "--token-file", "t"], "--token-file with --local"),
        (["abc", "--local", "--av", "d"], "--av without --target"),
        (["abc", "--local", "--target", "d"], "--target without --av"),
        (["", "--local"], "input: got no token"),
        (["abc", "--local", "--positions", "7"], "positions: got 7, expected -1 to 0"),
    ],
)
def test_refused(
    gloss: Command,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    """One line, and nothing is written, not even where there is an output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gloss_server.sources.explainer_choice.DEFAULT_ADDRESS", echo.address)
    more = [] if "--output" in arguments else ["--output", "out.jsonl"]
    for given in (arguments, [*arguments, *more]):
        ended = gloss("explain", *given)
        assert ended.status == 2 and said in ended.error
    assert list(tmp_path.iterdir()) == []


def test_one_text_that_a_server_cannot_read_is_refused(
    gloss: Command, echo: EchoServer, tmp_path: Path
) -> None:
    """As here, whatever the status: in the same words, and nothing is shown or written."""
    out = tmp_path / "out.jsonl"
    for output in ([], ["--output", out]):
        # The first call asks for the server's state.
        echo.service.faults.extend([None, BEYOND])
        ended = gloss("explain", "a", "--positions", 7, *output, "--address", echo.address)
        assert (ended.status, ended.error) == (2, f"error: {LACKING}")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["by a server", "here"])
def test_of_many_a_text_that_cannot_be_read_is_a_row(
    gloss: Command, echo: EchoServer, tmp_path: Path, where: str
) -> None:
    """The same row."""
    texts, out = write_rows(tmp_path / "texts.jsonl", [{"text": "a"}]), tmp_path / "out.jsonl"
    echo.service.faults.extend([None, BEYOND])
    way = ["--local"] if where == "here" else ["--address", echo.address]
    ended = gloss("explain", "-f", texts, "--positions", 7, "--output", out, *way)
    (row,) = read_rows(out)
    assert ended.status == 3 and row["position"] is None
    assert row["error"] == {
        "code": "OUT_OF_RANGE",
        "reason": "POSITION_OUT_OF_RANGE",
        "message": f"row 0: {LACKING}",
    }


def test_a_server_without_a_target(gloss: Command, echo: EchoServer) -> None:
    echo.service.has_target = False
    ended = gloss("explain", "abc", "--address", echo.address)
    assert ended.status == 2 and "has no target loaded" in ended.error
    assert "gloss serve --target DIR" in ended.error
