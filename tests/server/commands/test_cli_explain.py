"""`gloss explain`: what it shows and writes, by a server and here.

The real server runs the embedded pair; a made-up one, whose target reads characters, fails when it
is told to.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.files.result_schema import SCHEMA
from support.checkpoints import Pair, write_target
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, read_rows, write_rows
from support.echo_server import EchoServer, echo_server
from support.explain_runs import HOSTILE, STORY, in_order, same
from support.server_process import ServerProcess

COLUMNS = [*SCHEMA.names, "doc_id", "position", "token_id", "token", "norm", "layer_index"]
OPTIONS = ["--samples", 2, "--seed", 7, "--positions", "::2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded pair and its target, served. Left idle."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, settings={"num_slots": 32}) as process:
        yield process.wait_ready()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of any kind; those of rows 1, 3 and 4 cannot be read. Read only."""
    rows: list[dict[str, Any]] = [
        {"text": STORY, "doc_id": "mia"},
        {"text": ""},
        {"messages": [{"role": "user", "content": "Leo is a dragon."}], "doc_id": "chat"},
        {"text": "Leo " * 2000, "doc_id": "long"},
        {"doc_id": "nothing"},
        {"text": "Leo"},
    ]
    return write_rows(tmp_path_factory.mktemp("documents") / "texts.jsonl", rows)


@pytest.fixture(scope="module")
def local_rows(documents: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What --local makes of them."""
    directory = tmp_path_factory.mktemp("local")
    arguments = ["explain", "-f", documents, "--local", *OPTIONS]
    process = start_gloss([*arguments, "--output", directory / "out.jsonl"], directory / "log")
    assert end(process) == 3
    return in_order(read_rows(directory / "out.jsonl"))


def test_a_row_has_verbalizes_fields_and_its_place(local_rows: list[dict[str, Any]]) -> None:
    assert all(list(row) == COLUMNS for row in local_rows)
    mia = [row for row in local_rows if row["index"] == 0]
    assert [row["position"] for row in mia] == [p for p in range(0, 21, 2) for _ in range(2)]
    assert {row["doc_id"] for row in mia} == {"mia"} and {row["layer_index"] for row in mia} == {2}
    assert [row["token"] for row in mia[::2]][:4] == ["Mia", "a", ".", "has"]
    assert all(row["norm"] > 0 and row["fve"] is not None and row["seed"] == 7 for row in mia)
    assert "early_position" in mia[0]["flags"] and "early_position" not in mia[-1]["flags"]
    assert any("silver key" in row["explanation"] for row in mia)
    failed = {row["index"]: row for row in local_rows if row["error"] is not None}
    assert sorted(failed) == [1, 3, 4] and len(local_rows) == 22 + 3 + 2 + len(_chat(local_rows))
    reasons = [failed[index]["error"]["reason"] for index in sorted(failed)]
    assert reasons == ["EMPTY_TEXT", "TEXT_TOO_LONG", "INVALID_ROW"]
    assert failed[1]["position"] is None and failed[1]["doc_id"] == "1"
    unknown = [row for row in _chat(local_rows) if "unknown_token" in row["flags"]]
    assert unknown and all(row["token"] == "[UNK]" for row in unknown)


def _chat(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["index"] == 2]


def test_rows_of_a_server_are_those_of_local(
    gloss: Command,
    server: ServerProcess,
    documents: Path,
    local_rows: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["explain", "-f", documents, "--address", server.address, *OPTIONS]
    ended = gloss(*arguments, "--output", out)
    assert ended.status == 3 and "of 6 texts, 3 of them failed" in ended.stderr
    assert ended.stdout == ""
    # The messages of texts that failed are among what must be equal.
    assert same(in_order(read_rows(out)), local_rows)
    again = gloss(*arguments, "--output", out)
    assert again.status == 3 and "nothing to do" in again.stderr
    server.wait_idle()


def test_an_engine_that_dies_is_waited_for(
    server: ServerProcess, documents: Path, local_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    out, before = tmp_path / "out.jsonl", server.stats().engine_restarts
    arguments = ["explain", "-f", documents, "--address", server.address, *OPTIONS]
    process = start_gloss([*arguments, "--output", out], tmp_path / "log")
    wait_until(lambda: server.stats().running > 0, process)
    os.kill(server.engine_pid, signal.SIGKILL)
    assert end(process) == 3, (tmp_path / "log").read_text()
    assert server.stats().engine_restarts == before + 1
    assert same(in_order(read_rows(out)), local_rows)


def test_plain_lines_in_the_order_of_the_input(
    gloss: Command, documents: Path, local_rows: list[dict[str, Any]]
) -> None:
    ended = gloss("explain", "-f", documents, "--local", *OPTIONS)
    assert ended.status == 3 and ended.stderr == ""
    head, *lines = [line.split("\t") for line in ended.stdout.splitlines()]
    names = ["doc_id", "position", "token", "sample", "explanation", "cosine", "fve", "flags"]
    assert head == names
    shown = [dict(zip(names, cells, strict=True)) for cells in lines]
    assert len(shown) == len(local_rows)
    for line, row in zip(shown, local_rows, strict=True):
        assert line["doc_id"] == row["doc_id"] and line["sample"] == str(row["sample"])
        if row["error"] is None:
            assert line["position"] == str(row["position"]) and line["token"] == row["token"]
            assert line["explanation"] == row["explanation"]
            assert line["flags"] == ",".join(row["flags"])
            assert float(line["fve"]) == pytest.approx(row["fve"], abs=1e-3)
        else:
            assert line["flags"] == "error" and row["error"]["reason"] in line["explanation"]


@pytest.mark.parametrize("form", ["text", "file", "stdin", "chat"])
def test_one_text_in_every_form(
    gloss: Command,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """The line end that editors leave behind a text is not read."""
    file = tmp_path / "text.txt"
    file.write_bytes("naïve\r\n".encode())
    given: list[object] = ["naïve"]
    if form == "file":
        given = ["-f", file]
    elif form == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve\n".encode())))
        given = ["-f", "-"]
    elif form == "chat":
        given = ['[{"role": "user", "content": "naïve"}]', "--chat"]
    ended = gloss("explain", *given, "--address", echo.address, "--positions", "-3:")
    assert ended.status == 0
    asked = [call.request for call in echo.service.received if call.method == "Explain"]
    assert len(asked) == 1, "none to try"
    if form == "chat":
        assert asked[0].input.chat.messages[0].content == "naïve"
    else:
        assert asked[0].input.text == "naïve"
    head, *lines = ended.stdout.splitlines()
    assert head.startswith("position\ttoken\tsample") and len(lines) == 3
    assert asked[0].options.seed < 2**53


def test_what_somebody_waits_for_goes_before_files_of_texts(
    gloss: Command, echo: EchoServer, tmp_path: Path
) -> None:
    """Of a file nobody waits for a text."""
    rows = write_rows(tmp_path / "texts.jsonl", [{"text": "ab"}, {"text": "cd"}])
    for given, expected in ((["ab"], "INTERACTIVE"), (["-f", rows], "BATCH")):
        echo.service.received.clear()
        assert gloss("explain", *given, "--address", echo.address).status == 0
        asked = [call.request for call in echo.service.received if call.method == "Explain"]
        assert asked and {pb.Priority.Name(one.priority) for one in asked} == {
            f"PRIORITY_{expected}"
        }


def test_text_is_shown_not_obeyed(gloss: Command, echo: EchoServer, tmp_path: Path) -> None:
    ended = gloss("explain", HOSTILE, "--address", echo.address)
    assert "\x1b" not in ended.stdout and len(ended.stdout.splitlines()) == 2 + len(HOSTILE)
    tokens = [line.split("\t")[1] for line in ended.stdout.splitlines()[1:]]
    assert tokens == ["<s>", "a", "\\x1b", *"[2J", "\\t", *"b[bold]", "\\n"]
    file = write_rows(tmp_path / "t.jsonl", [{"text": "a", "doc_id": HOSTILE}, {"doc_id": HOSTILE}])
    ended = gloss("explain", "-f", file, "--address", echo.address)
    assert ended.status == 3
    assert "\x1b" not in ended.stdout and len(ended.stdout.splitlines()) == 4


def test_an_activation_that_fails_alone(gloss: Command, echo: EchoServer, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["explain", "a!b", "--address", echo.address, "--seed", 1]
    ended = gloss(*arguments, "--output", out)
    assert ended.status == 3 and "4 explanations of 1 text, 1 of them failed" in ended.stderr
    (failed,) = [row for row in read_rows(out) if row["error"]]
    assert failed["position"] == 2 and failed["token"] == "!"
    assert failed["error"]["message"].startswith("row 0, position 2: ")
    assert gloss(*arguments).status == 3


def test_other_checkpoints_than_the_embedded(
    gloss: Command, small_pair: Pair, tmp_path: Path
) -> None:
    target = write_target(tmp_path / "target", "qwen2", seed=7)
    models = ["--av", small_pair.av, "--ar", small_pair.ar, "--target", target]
    ended = gloss(
        *("explain", "the river runs north", "--local", *models),
        *("--positions", "1,-1", "--max-new-tokens", 4, "--seed", 2),
    )
    assert ended.status == 0 and len(ended.stdout.splitlines()) == 3


def test_no_torch_is_loaded_for_a_server(tmp_path: Path) -> None:
    code = (
        "import sys; from gloss_server.cli.app import run\n"
        "print(run(sys.argv[1:]), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "explain", "abc", "--address", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "1 False False\n"
    assert all(hint in ended.stderr for hint in ("gloss serve", "--local", "--tls-cert"))


def test_whoever_reads_the_lines_may_leave(echo: EchoServer) -> None:
    ended = subprocess.run(
        ["bash", "-c", '"$@" | head -n 2', "bash", sys.executable, "-m", "gloss_server.command"]
        + ["explain", "a" * 2000, "--address", echo.address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len(ended.stdout.splitlines()) == 2
    assert "Traceback" not in ended.stderr


def test_what_is_asked_for(gloss: Command, echo: EchoServer) -> None:
    options = ["--temperature", 0.5, "--top-p", 0.9, "--top-k", 4, "--min-p", 0.1]
    options += ["--repetition-penalty", 1.2, "--max-new-tokens", 9, "--no-score", "--samples", 3]
    assert gloss("explain", "abc", "--address", echo.address, "--seed", 8, *options).status == 0
    *_, asked = [call.request for call in echo.service.received if call.method == "Explain"]
    expected = pb.GenerationOptions(
        num_samples=3,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.2,
        max_new_tokens=9,
        seed=8,
        score=False,
    )
    assert asked.options == expected


@pytest.mark.parametrize("kind", ["text", "file"])
def test_a_text_is_asked_for_once(
    gloss: Command, echo: EchoServer, tmp_path: Path, kind: str
) -> None:
    """What a request would be refused for comes from the call itself: none is given up."""
    given = ["abc"]
    if kind == "file":
        given = ["-f", write_rows(tmp_path / "texts.jsonl", [{"text": "abc"}, {"text": "de"}])]
    for output in ([], ["--output", tmp_path / "out.jsonl"]):
        echo.service.received.clear()
        assert gloss("explain", *given, "--address", echo.address, "--seed", 1, *output).status == 0
        calls = [call.request for call in echo.service.received if call.method == "Explain"]
        assert sorted(call.input.text for call in calls) == ["abc", "de"][: len(calls)]
        assert len(calls) == (1 if kind == "text" else 2)
