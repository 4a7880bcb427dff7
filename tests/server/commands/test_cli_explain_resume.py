"""`gloss explain` broken off in every way: by its server, a kill, Ctrl-C; the rerun is whole."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from gloss_client import (
    Captured,
    ExplainEvent,
    Explanation,
    TextDelta,
    TextOpened,
    TokenPlace,
)
from gloss_engine.capture.positions import Positions
from gloss_engine.text_request import ExplainRequest, TextInput
from gloss_server.sources.service_texts import _SoFar
from gloss_server.sources.text_source import TextEvent
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, Ended, read_rows, write_rows
from support.echo_server import EchoServer, echo_server
from support.echo_service import Fault
from support.explain_runs import STORY, in_order, lines_of, same


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


@pytest.mark.parametrize("after", [1, 2, 3, 6, 7])
def test_a_stream_that_breaks_off_is_asked_for_what_is_missing(
    gloss: Command, echo: EchoServer, tmp_path: Path, after: int
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ["explain", "abcdef", "--address", echo.address, "--samples", 2, "--seed", 5]
    assert gloss(*arguments, "--output", whole).status == 0
    lost = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTING", after=after)
    # GetStats goes well.
    echo.service.faults.extend([None, lost])
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


def test_a_second_stream_tells_what_the_first_did_not() -> None:
    """By its rank among all chosen positions; what grew in the first is not said twice."""
    request = ExplainRequest(input=TextInput(text="abcdef"), positions=Positions(step=2))
    places = [
        TokenPlace(position=position, token_id=1, token="", norm=1.0, layer_index=2)
        for position in (0, 2, 4)
    ]
    so_far = _SoFar(request)

    def told(*events: ExplainEvent) -> list[TextEvent]:
        return [new for event in events for new in so_far.take(event)]

    opened = TextOpened(token_ids=(1,) * 6)
    first = [opened, *(Captured(index=rank, place=place) for rank, place in enumerate(places))]
    middle = Explanation(index=1, sample=0, place=places[1])
    grown = TextDelta(index=0, sample=0, token_ids=(5,), text="a")
    assert so_far.positions() == request.positions
    assert told(*first, grown, middle) == [*first, grown, middle]
    assert so_far.positions() == Positions(indices=(0, 4))
    second = [opened, Captured(index=0, place=places[0]), Captured(index=1, place=places[2])]
    last = Explanation(index=1, sample=0, place=places[2])
    assert told(*second, grown, last) == [replace(last, index=2)]
    assert so_far.positions() == Positions(indices=(0,))


def test_a_server_that_does_not_serve_for_a_while(gloss: Command, echo: EchoServer) -> None:
    """The stream fails before its first message, and every next attempt finds NOT_SERVING."""
    lost = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTED", pushback_ms=100)
    echo.service.faults.extend([None, lost])

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
    kept = out.read_bytes().rpartition(b"\n")[0] if out.exists() else b""
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
