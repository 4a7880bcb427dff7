"""`gloss explain`: what it shows and writes, by a server and here; runs that are broken off.

The real server runs the embedded pair; a made-up one, whose target reads characters, fails when it
is told to.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import Captured, Explanation, TextDelta, TokenPlace
from gloss_server.explain_show import TableShow
from gloss_server.result_row import SCHEMA
from gloss_server.text_source import Came, TextEnded
from support.checkpoints import Pair, write_target
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, Ended, read_rows, write_rows
from support.echo_server import EchoServer, echo_server
from support.echo_service import Fault
from support.screen import Screen
from support.server_process import ServerProcess

STORY = "Mia is a baker. She has a silver key. It is noon. Leo meets her in the park."
HOSTILE = "a\x1b[2J\tb[bold]\n"
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


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by text, position and sample."""
    return sorted(rows, key=lambda row: (row["index"], row["position"] or 0, row["sample"]))


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether rows agree: all but float32 sums over other batches exactly."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert list(row) == list(other)
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[key], abs=1e-3), key
            else:
                assert value == other[key], (row["index"], row["position"], key)
    return True


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
    assert len(asked) == 2 and asked[0].input == asked[1].input, "one of them to try"
    if form == "chat":
        assert asked[0].input.chat.messages[0].content == "naïve"
    else:
        assert asked[0].input.text == "naïve"
    head, *lines = ended.stdout.splitlines()
    assert head.startswith("position\ttoken\tsample") and len(lines) == 3
    assert asked[1].options.seed < 2**53


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


@pytest.mark.parametrize("after", [1, 2, 3, 6, 7])
def test_a_stream_that_breaks_off_is_asked_for_what_is_missing(
    gloss: Command, echo: EchoServer, tmp_path: Path, after: int
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ["explain", "abcdef", "--address", echo.address, "--samples", 2, "--seed", 5]
    assert gloss(*arguments, "--output", whole).status == 0
    lost = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTING", after=after)
    # GetStats, and the call that tries.
    echo.service.faults.extend([None, None, lost])
    assert gloss(*arguments, "--output", out).status == 0
    assert not echo.service.faults
    assert in_order(read_rows(out)) == in_order(read_rows(whole))
    *_, asked = [call.request for call in echo.service.received if call.method == "Explain"]
    asked_for = list(asked.positions.list.positions)
    assert asked_for == ([] if after == 7 else list(range(7)))


def test_a_full_server_is_waited_for(gloss: Command, echo: EchoServer) -> None:
    full = Fault(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason="QUEUE_FULL",
        retry_after=0.02,
        pushback_ms=1,
    )
    echo.service.faults.extend([None, *[full] * 20])
    ended = gloss("explain", "abc", "--address", echo.address)
    assert ended.status == 0 and len(ended.stdout.splitlines()) == 5 and not echo.service.faults


def test_a_server_that_does_not_serve_for_a_while(gloss: Command, echo: EchoServer) -> None:
    """The stream fails before its first message, and every next attempt finds NOT_SERVING."""
    lost = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTED", pushback_ms=100)
    echo.service.faults.extend([None, None, lost])

    def leave() -> None:
        while echo.service.faults:
            time.sleep(0.001)
        echo.set_serving(False)
        time.sleep(1)
        echo.set_serving(True)

    leaving = threading.Thread(target=leave)
    leaving.start()
    ended = gloss("explain", "abc", "--address", echo.address)
    leaving.join()
    assert ended.status == 0 and len(ended.stdout.splitlines()) == 5


MANY = [{"text": f"{STORY} {STORY}", "doc_id": f"d{i % 3}"} for i in range(5)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """220 explanations; names are not unique. Read only."""
    return write_rows(tmp_path_factory.mktemp("many") / "many.jsonl", MANY)


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of a run that nobody interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    arguments = ["explain", "-f", many, "--local", "--seed", 3, "--output"]
    assert end(start_gloss([*arguments, directory / "out.jsonl"], directory / "log")) == 0
    rows = in_order(read_rows(directory / "out.jsonl"))
    assert len(rows) == 5 * 44
    return rows


@pytest.mark.parametrize(
    "moment",
    [
        lambda output: output.with_name(f"{output.name}.run.json").exists(),
        lambda output: lines_of(output.with_name(f"{output.name}.texts.jsonl")) >= 1,
        lambda output: lines_of(output) >= 1,
        lambda output: lines_of(output) >= 100,
    ],
)
def test_killed_and_continued(
    many: Path, whole: list[dict[str, Any]], tmp_path: Path, moment: Callable[[Path], bool]
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["explain", "-f", many, "--local", "--seed", 3, "--output", out]
    process = start_gloss(arguments, tmp_path / "log")
    wait_until(lambda: moment(out), process)
    process.kill()
    assert end(process) == -signal.SIGKILL
    kept = out.read_bytes().rpartition(b"\n")[0]
    assert lines_of(out) < 220, "killed too late to test anything"
    assert end(start_gloss(arguments, tmp_path / "log")) == 0
    assert out.read_bytes().startswith(kept)
    assert same(in_order(read_rows(out)), whole)


def test_gaps_and_a_torn_line_are_filled(
    many: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["explain", "-f", many, "--local", "--seed", 3, "--output", out]
    assert end(start_gloss(arguments, tmp_path / "log")) == 0
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(line for number, line in enumerate(lines) if number % 7 != 4)[:-9])
    texts = out.with_name("out.jsonl.texts.jsonl")
    texts.write_bytes(texts.read_bytes() + b'{"ind')
    assert end(start_gloss(arguments, tmp_path / "log")) == 0
    assert "32 new in" in (tmp_path / "log").read_text()
    assert same(in_order(read_rows(out)), whole)


def test_an_interrupt_keeps_what_was_written(
    gloss: Command, echo: EchoServer, tmp_path: Path
) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": "abc"}] * 40)
    echo.service.step_seconds = 0.02
    arguments = ["explain", "-f", texts, "--address", echo.address, "--seed", 1, "--output", out]
    process = start_gloss(arguments, log)
    wait_until(lambda: lines_of(out) >= 32, process)
    echo.service.step_seconds = 30
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == 130
    (line,) = log.read_text().splitlines()
    held = lines_of(out)
    assert f"interrupted with {held} explanations written" in line and held < 160
    echo.service.step_seconds = 0
    assert gloss(*arguments).status == 0
    rows = in_order(read_rows(out))
    assert [(row["index"], row["position"]) for row in rows] == [
        (index, position) for index in range(40) for position in range(4)
    ]


def test_another_run_is_refused(gloss: Command, echo: EchoServer, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"

    def run(*arguments: object, text: str = "abc", seed: int = 1) -> Ended:
        where = ["--address", echo.address, "--output", out]
        return gloss("explain", text, *where, "--seed", seed, *arguments)

    assert run().status == 0
    held = out.read_bytes()
    for ended, said in (
        (run("--positions", "last"), "--positions was all, now last"),
        (run("--samples", 3), "--samples was 1, now 3"),
        (run("--temperature", 0.5), "--temperature was 1.0, now 0.5"),
        (run(seed=2), "--seed was 1, now 2"),
        (run(text="abd"), "the input is another file or was changed"),
    ):
        assert ended.status == 2 and said in ended.error
    assert "nothing to do" in run().stderr and out.read_bytes() == held
    # What stands beside it alone is of no run: it begins anew, with what is asked for now.
    out.unlink()
    out.with_name("out.jsonl.run.json").unlink()
    assert run(text="abcdef").status == 0 and lines_of(out) == 7
    row = json.loads(out.read_text().splitlines()[0]) | {"position": 99}
    out.write_text(f"{json.dumps(row)}\n")
    assert "line 1 is no row of this run" in run(text="abcdef").error


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
    monkeypatch.setattr("gloss_server.explainer_choice.DEFAULT_ADDRESS", echo.address)
    more = [] if "--output" in arguments else ["--output", "out.jsonl"]
    for given in (arguments, [*arguments, *more]):
        ended = gloss("explain", *given)
        assert ended.status == 2 and said in ended.error
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_a_target(gloss: Command, echo: EchoServer) -> None:
    echo.service.has_target = False
    ended = gloss("explain", "abc", "--address", echo.address)
    assert ended.status == 2 and "has no target loaded" in ended.error
    assert "gloss serve --target DIR" in ended.error


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


def test_a_table_fills_on_a_terminal(screen: Callable[..., Screen], echo: EchoServer) -> None:
    echo.service.step_seconds = 0.4
    shown = screen("explain", "abcdef", "--address", echo.address, "--seed", "4")
    shown.until(lambda seen: "0 of 7 explained" in seen and "token" in seen)
    shown.until(lambda seen: "mean FVE" in seen)
    assert shown.end() == 0
    last = shown.seen.rpartition("of 7 explained")[2]
    assert "7 explanations" in last and "seed 4" in last
    # The live page was taken away: cleared line by line.
    assert "\x1b[2K" in last


def test_an_interrupt_leaves_the_table_of_what_there_is(
    screen: Callable[..., Screen], echo: EchoServer
) -> None:
    echo.service.step_seconds = 0.3
    shown = screen("explain", "abcdef", "--address", echo.address)
    shown.until(lambda seen: "0 of 7 explained" in seen)
    echo.service.step_seconds = 30
    shown.interrupt()
    assert shown.end() == 130
    assert "0 explanations" in shown.seen and "error: interrupted" in shown.seen


def _place(position: int, token: str) -> TokenPlace:
    return TokenPlace(position=position, token_id=1, token=token, norm=1.0, layer_index=2)


def test_a_long_text_shows_what_fits_while_it_fills_and_all_at_the_end() -> None:
    """Hostile tokens and explanations, on a terminal with colours."""
    file = io.StringIO()
    console = Console(file=file, width=80, height=20, force_terminal=True, color_system="standard")
    show = TableShow(console)
    show.begin(1, 9, {0: HOSTILE})
    places = [_place(position, f"t{position}\x1b[2J") for position in range(60)]
    show.take([Came(row=0, event=Captured(index=i, place=p)) for i, p in enumerate(places)])
    for index, place in enumerate(places):
        delta = TextDelta(index=index, sample=0, token_ids=(1,), text=f"<explanation>grows {index}")
        show.take([Came(row=0, event=delta)])
        made = Explanation(
            index=index,
            sample=0,
            explanation=f"said {index}. " * 20 + "[red]\x1b]0;x\x07",
            finish_reason="eos",
            cosine=0.9,
            fve=0.8,
            flags=("unclosed", "\x1b[5mnew"),
            place=place,
        )
        show._page._drawn_at = 0.0
        show.take([Came(row=0, event=made)])
    live = file.getvalue()
    show.take([Came(row=0, event=TextEnded())])
    show.end()
    for hostile in ("\x1b[2J", "\x1b]0;x", "\x07", "\x1b[5m"):
        assert hostile not in file.getvalue()
    whole = file.getvalue()[len(live) :]
    assert all(f"t{position}\\x1b[2J" in whole for position in range(60))
    assert "[red]" in whole and "60 unclosed" in whole and "60 explanations" in whole
    frames = live.split("of 60 explained")
    assert len(frames) > 50 and max(frame.count("\n") for frame in frames) <= 20
    assert "t59\\x1b" not in frames[3] and "t59\\x1b" in frames[-2]


def test_no_torch_is_loaded_for_a_server(tmp_path: Path) -> None:
    code = (
        "import sys; from gloss_server.cli import run\n"
        "print(run(sys.argv[1:]), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "explain", "abc", "--address", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "1 False False\n"
    assert "gloss serve" in ended.stderr and "--local" in ended.stderr


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
