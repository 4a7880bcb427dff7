"""The server's log: a JSON line a call, nothing of its contents, and never a call's problem."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gloss_server.front.call_log import CallLog, CallRecord
from gloss_server.front.line_writer import LineWriter

HOSTILE = 'x"}\n{"event": "stopped"}\r\x1b[2J\u202e\u2028\x85\udc80'


def record(**changes: Any) -> CallRecord:
    facts: dict[str, Any] = {
        "method": "Verbalize",
        "request_id": "r-1",
        "peer": "ipv4:127.0.0.1:4711",
        "client": "ipv4:127.0.0.1",
        "priority": None,
        "code": "OK",
        "reason": None,
        "seconds": 1.23456789,
        "queue_seconds": 0.01,
        "num_items": 3,
        "num_tokens": 40,
        "explanations": ["a secret"],
    }
    return CallRecord(**{**facts, **changes})


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    yield descriptor, path
    os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK)
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    assert data.isascii() and b"\x1b" not in data
    return [json.loads(line) for line in data.splitlines()]


def test_a_call_is_one_line_without_its_contents(file: tuple[int, Path]) -> None:
    log = CallLog(descriptor=file[0])
    log.call(record())
    log.call(record(code="INTERNAL", reason="INTERNAL", first_token_seconds=float("nan")))
    log.close()
    line, failed = read(file[1])
    assert list(line) == [
        *("ts", "level", "event", "method", "request_id", "peer", "client", "priority", "code"),
        *("reason", "seconds", "queue_seconds", "first_token_seconds", "num_items", "num_tokens"),
        *("num_text_tokens", "num_target_tokens", "request_bytes", "reply_bytes", "trace_id"),
    ]
    assert line["event"] == "call" and line["level"] == "info" and line["seconds"] == 1.234568
    assert line["ts"].endswith("Z") and line["first_token_seconds"] is None
    assert failed["level"] == "error" and failed["first_token_seconds"] is None
    assert "secret" not in file[1].read_text()


def test_explanations_where_they_were_asked_for(file: tuple[int, Path]) -> None:
    log = CallLog(log_explanations=True, descriptor=file[0])
    log.call(record(explanations=[HOSTILE, "y" * 10_000] * 100))
    log.close()
    (line,) = read(file[1])
    assert line["explanations"][0] == HOSTILE and len(line["explanations"]) == 64
    assert len(line["explanations"][1]) == 4099


def test_what_callers_chose_is_data_and_bounded(file: tuple[int, Path]) -> None:
    log = CallLog(descriptor=file[0])
    log.call(record(request_id=HOSTILE, peer="p" * 10_000, method=HOSTILE))
    log.lifecycle("ready", address=HOSTILE * 1000)
    log.close()
    call, ready = read(file[1])
    assert call["request_id"] == HOSTILE and call["method"] == HOSTILE
    assert len(call["peer"]) == 259 and len(ready["address"]) == 16_387
    assert (call["event"], ready["event"]) == ("call", "ready")


def test_levels(file: tuple[int, Path]) -> None:
    log = CallLog(level="warning", descriptor=file[0])
    log.call(record())
    log.lifecycle("ready")
    log.lifecycle("engine_died", exit_status=-9, reason="killed")
    log.call(record(code="UNAVAILABLE", reason="ENGINE_RESTARTED"))
    log.close()
    assert [line["event"] for line in read(file[1])] == ["engine_died", "call"]
    with pytest.raises(KeyError):
        log.lifecycle("something else")


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = CallLog(descriptor=descriptor)
    for _ in range(100):
        log.call(record())
    log.close()
    os.close(descriptor)


def test_lost_lines_are_told_of_once_writing_works_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    # Like a disk it takes what fits: lines over 4,096 bytes go into a pipe in parts.
    fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
    log = CallLog(log_explanations=True, descriptor=writer)
    for number in range(2000):
        log.call(record(num_items=number, explanations=["y" * 4000, "z" * 1000]))
    until(lambda: log._writer.num_lost > 100 and not log._writer._lines)
    received = os.read(reader, 1 << 20)
    log.call(record(num_items=5000))
    log.close()
    received += os.read(reader, 1 << 20)
    lines = received.decode().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(lines) - len(whole) == 1, "the line that was torn, and it swallowed no other"
    *calls, told, last = whole
    assert told["event"] == "log_lines_lost" and told["level"] == "warning"
    assert told["count"] == 2000 - len(calls) and last["num_items"] == 5000
    assert [line["num_items"] for line in calls] == list(range(len(calls)))


def test_a_reader_that_stalls_keeps_nobody_waiting(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, lambda count: f"lost {count}", capacity=50)
    started = time.monotonic()
    for number in range(3000):
        writer.write(f"{number} {'x' * 100}")
    assert time.monotonic() - started < 1 and writer.num_lost > 1000
    received = bytearray()

    def drained() -> bool:
        try:
            received.extend(os.read(reader, 1 << 16))
        except BlockingIOError:
            return not writer.num_lost and not writer._lines
        return False

    until(drained)
    writer.close()
    lines = received.decode().splitlines()
    # One line tells of the loss, or several where the writer's thread was slow to begin.
    lost = [int(line.split()[1]) for line in lines if line.startswith("lost ")]
    assert lost and len(lines) - len(lost) + sum(lost) == 3000


def test_a_reader_that_went_away(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LineWriter(descriptor, lambda count: f"lost {count}")
    os.close(reader)
    for _ in range(10):
        writer.write("x")
    until(lambda: writer.num_lost == 10)
    writer.close()


def test_a_descriptor_that_was_closed_and_given_to_somebody_else_is_left_alone(
    tmp_path: Path,
) -> None:
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    log = CallLog(descriptor=descriptor)
    os.close(descriptor)
    other = os.open(tmp_path / "other", os.O_CREAT | os.O_WRONLY)
    assert other == descriptor, "this test needs the number to be given again"
    log.call(record())
    log.close()
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b"" and len(read(tmp_path / "log")) == 1


def test_started_without_stderr_it_writes_nowhere(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from gloss_server.front.call_log import CallLog\n"
        f"taken = os.open({str(tmp_path / 'taken')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "log = CallLog()\n"
        "log.lifecycle('ready'); log.close()\n"
        "sys.exit(0 if taken == 2 and log._writer.num_lost == 1 else 7)\n"
    )
    ended = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code], timeout=60
    )
    assert ended.returncode == 0 and (tmp_path / "taken").read_bytes() == b""


def test_stderr_is_where_lines_go() -> None:
    code = (
        "from gloss_server.front.call_log import CallLog\n"
        "log = CallLog(); log.lifecycle('draining', num_calls=3); log.close()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(ended.stderr)["event"] == "draining" and ended.stdout == ""
