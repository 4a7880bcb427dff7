"""`gloss ui` and `gloss demo --ui` as processes: browsers that leave or stall, signals, the ends.

Here a browser is a bare connection: what it does wrong, none of the tests' real one would.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.page.guard import SECURITY_HEADERS
from support.asgi import events_of
from support.echo_server import echo_server
from support.echo_service import EchoService
from support.page_process import PageProcess
from support.server_process import ServerProcess
from support.text_calls import STORY

JSON = {"Content-Type": "application/json"}
EXPLAIN = {"text": STORY, "seed": 3, "max_new_tokens": 20}
LONG_WATCH = {"text": STORY, "tokens_per_second": 5, "target": {"max_new_tokens": 500}}
MIB = 1 << 20


@contextmanager
def _asked(origin: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
    """A request whose answer is read by the test; leaving goes away."""
    place = urlsplit(origin)
    assert place.hostname and place.port
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), JSON)
        yield connection.getresponse()
    finally:
        connection.close()


def _events(answer: http.client.HTTPResponse) -> list[tuple[str, Any]]:
    return events_of(answer.read().decode())


def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.02)


def test_a_text_is_explained(narrow_ui: str) -> None:
    with _asked(narrow_ui, "/api/explain", EXPLAIN) as answer:
        assert answer.status == 200
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "Server" not in answer.headers
        events = _events(answer)
    opened, end = events[0][1], events[-1][1]
    rows = [row for name, values in events if name == "rows" for row in values["rows"]]
    assert [name for name, _ in (events[0], events[-1])] == ["opened", "end"]
    assert sorted(row["position"] for row in rows) == list(range(len(opened["token_ids"])))
    assert sum(end["finish_counts"].values()) == len(rows) == len(opened["tokens"])
    assert all(row["token"] == opened["tokens"][row["position"]] for row in rows)


@pytest.mark.parametrize(
    ("path", "body"), [("/api/explain", EXPLAIN | {"num_samples": 8}), ("/api/watch", LONG_WATCH)]
)
def test_a_browser_that_goes_away_frees_the_service(
    narrow_ui: str, narrow: ServerProcess, path: str, body: Any
) -> None:
    with _asked(narrow_ui, path, body) as answer:
        assert answer.readline() == b"event: opened\n"
        name = json.loads(answer.readline().removeprefix(b"data: "))["request_id"]
        _until(lambda: narrow.stats().running > 0)
    narrow.wait_idle()

    def ended() -> list[str]:
        return [x["code"] for x in narrow.events("call") if x.get("request_id") == name]

    _until(lambda: bool(ended()))
    assert ended() == ["CANCELLED"]


def test_a_browser_that_goes_away_leaves_the_queue(narrow_ui: str, narrow: ServerProcess) -> None:
    many = EXPLAIN | {"num_samples": 32}

    def ended() -> list[str]:
        return [x["code"] for x in narrow.events("call") if x["method"] == "Explain"][before:]

    before = 0
    before = len(ended())
    with _asked(narrow_ui, "/api/explain", many) as first:
        first.read(20)
        waiting = narrow.stats().waiting
        with _asked(narrow_ui, "/api/explain", many) as second:
            second.read(20)
            _until(lambda: narrow.stats().waiting > waiting * 3 // 2)
        _until(lambda: ended() == ["CANCELLED"])
        # The first one goes on; between two steps nothing may run.
        _until(lambda: narrow.stats().running > 0)
        assert ended() == ["CANCELLED"]
    narrow.wait_idle()


def test_the_figures_are_asked_for_while_somebody_reads(
    narrow_ui: str, narrow: ServerProcess
) -> None:
    def asked() -> int:
        return sum(line["method"] == "GetStats" for line in narrow.events("call"))

    with _asked(narrow_ui, "/api/stats") as one, _asked(narrow_ui, "/api/stats") as other:
        for answer in (one, other):
            assert answer.read(20).startswith(b"event: stats")
    time.sleep(0.2)
    before = asked()
    time.sleep(1.5)
    assert asked() == before


class _Flood(EchoService):
    """Says far more than a browser that does not read can take.

    Attributes:
        num_sent: messages that gRPC took.
    """

    num_messages, num_bytes = 1000, 200_000
    num_sent = 0

    def _messages(self, method: str, request: Any, context: Any) -> Iterator[Any]:
        start = pb.StreamStart(fingerprint=self.fingerprint, seed=1)
        yield pb.ExplainResponse(start=start, input_ids=[1], input_tokens=["a"])
        place = pb.TokenPosition(position=0, token_id=1, token="a", norm=1, layer_index=2)
        yield pb.ExplainResponse(captured=[place])
        for number in range(self.num_messages):
            delta = pb.TextDelta(text=f"{number:06} ".ljust(self.num_bytes, "x"))
            yield pb.ExplainResponse(deltas=[delta])
            type(self).num_sent += 1
        yield pb.ExplainResponse(end=pb.StreamEnd())


def _resident(process: subprocess.Popen[bytes]) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


def test_a_browser_that_does_not_read_fills_no_memory(tmp_path: Path) -> None:
    """200 MB are to come; the page holds a few of them, the service's end waits."""
    with echo_server(_Flood()) as server, PageProcess(tmp_path / "log", server.address) as page:
        with _asked(page.origin, "/api/model") as answer:
            answer.read()
        before = _resident(page.process)
        with _asked(page.origin, "/api/explain", {"text": "a"}) as answer:
            answer.read(20)
            sent = -1
            while sent != _Flood.num_sent:
                sent = _Flood.num_sent
                time.sleep(0.5)
            assert sent < 300
            assert _resident(page.process) - before < 64 * MIB
            # Others are served meanwhile, and it goes on where it was.
            with _asked(page.origin, "/api/model") as other:
                assert other.status == 200
            rest = answer.read()
            assert rest.count(b"event: deltas") == _Flood.num_messages
            assert b"event: end" in rest[-1000:]
        assert _resident(page.process) - before < 96 * MIB


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_open_streams_with_a_last_word(
    narrow: ServerProcess, tmp_path: Path, number: signal.Signals
) -> None:
    with PageProcess(tmp_path / "log", narrow.address) as page:
        with (
            _asked(page.origin, "/api/stats") as stats,
            _asked(page.origin, "/api/watch", LONG_WATCH) as watch,
        ):
            for answer in (stats, watch):
                answer.read(20)
            page.process.send_signal(number)
            for answer in (stats, watch):
                *_, last = answer.read().decode().split("event: ")
                assert last.startswith("failed") and "PAGE_CLOSING" in last
        assert page.process.wait(30) == 0
        assert page.output().count("\n") == 1
    narrow.wait_idle()


class _Demo:
    """`gloss demo --ui`, started at once.

    Args:
        folder: for its temporary files and what it prints.
        name: of the folder of temporary files.
    """

    def __init__(self, folder: Path, name: str = "tmp") -> None:
        self.folder, self._log = folder / name, folder / "log"
        self.folder.mkdir()
        environment = os.environ | {"TMPDIR": str(self.folder), "GLOSS_TOKENS": "/nowhere"}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gloss_server.command", "demo", "--ui"]
                + ["--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def __enter__(self) -> _Demo:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text()

    @property
    def origin(self) -> str:
        """Of its page, once that is there."""
        _until(lambda: "gloss ui ready: " in self.output())
        found = re.search(r"ready: (http://\S+?)/\n", self.output())
        assert found
        return found[1]

    def children(self) -> list[int]:
        """Its processes: the service."""
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("name", ["tmp", "longer than a socket's path " * 4])
def test_the_demos_page_says_that_the_models_load_and_then_explains(
    tmp_path: Path, name: str
) -> None:
    with _Demo(tmp_path, name) as demo:
        origin = demo.origin
        with _asked(origin, "/api/model") as answer:
            problem = json.load(answer)
            assert (answer.status, problem["code"]) == (503, "UNAVAILABLE"), problem
            assert problem["message"] and problem["hint"]

        def is_ready() -> bool:
            with _asked(origin, "/api/model") as answer:
                return answer.status == 200

        _until(is_ready, 90)
        with _asked(origin, "/api/explain", EXPLAIN) as answer:
            assert _events(answer)[-1][0] == "end"
        (service,) = demo.children()
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(30) == 0
        assert not Path(f"/proc/{service}").exists()
        assert [*demo.folder.iterdir()] == []
        assert "error" not in demo.output()


def test_a_demos_service_that_ends_ends_its_page(tmp_path: Path) -> None:
    with _Demo(tmp_path) as demo:
        assert demo.origin
        (service,) = demo.children()
        os.kill(service, signal.SIGKILL)
        assert demo.process.wait(30) == 1
        last = demo.output().splitlines()[-1]
        assert last.startswith("error: the service ended with status -9: ")
        assert [*demo.folder.iterdir()] == []
