"""Calls that are given up in every phase of their life, on a real server: nothing is left of them.

The engine is stopped in the phase (`support/phases.py`), so that a call is in it for certain; its
client hears, and the log says, how it ended while the engine still stands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest

from support.invariants import CheckedServer, check
from support.phases import DECODE, READ, SCORE, SPEAK, Phases
from support.raw_http2 import RawConnection
from support.server_process import ServerProcess
from support.service_calls import verbalize_request
from support.short_requests import REQUESTS, STREAMS, begin

COMMAND = (sys.executable, "-m", "support.serve_with_worker", "support.phase_worker")
WORKING = sorted(set(REQUESTS) - {"GetModelInfo", "GetStats"})
EXPLAINING = ("Verbalize", "StreamVerbalize", "Explain", "Watch")
PHASES = [
    *((READ, method) for method in ("Explain", "Watch", "Capture")),
    *((DECODE, method) for method in EXPLAINING),
    (SPEAK, "Watch"),
    *((SCORE, method) for method in (*EXPLAINING, "Reconstruct", "Score")),
]
SECONDS = 1.5
"""Until a call's deadline, which it reaches its phase before."""
CANCELLED, EXPIRED = ("CANCELLED",) * 2, ("DEADLINE_EXCEEDED",) * 2


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phases]:
    directory = tmp_path_factory.mktemp("phases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHASES", str(directory))
        yield Phases(directory)


@pytest.fixture(scope="module")
def running(phases: Phases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("phased") / "log"
    with CheckedServer(log, command=COMMAND) as server:
        yield server.wait_ready()


@pytest.fixture
def server(running: ServerProcess) -> Iterator[ServerProcess]:
    yield running
    check(running)
    assert not running.events("engine_died")


def _ends(server: ServerProcess, method: str) -> list[tuple[str, str]]:
    """Of all calls of a method, as the log says."""
    lines = [line for line in server.events("call") if line["method"] == method]
    return [(line["code"], line["reason"]) for line in lines]


def _give_up(
    server: ServerProcess, method: str, way: str, is_there: Callable[[], bool]
) -> tuple[str, str]:
    """Begin a call, and let it end in this way once it is where it is to be; how it ended."""
    before = len(_ends(server, method))
    if way == "vanish":
        connection = RawConnection(server.address)
        connection.call(f"/gloss_api.v1.GlossService/{method}", (), _bytes(method))
        server.calls.add(method)
        server.wait_for(is_there)
        connection.vanish()
    else:
        call = begin(server, method, SECONDS if way == "deadline" else 30)
        server.wait_for(is_there)
        if way == "cancel":
            call.cancel()
        with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
            list(call) if method in STREAMS else call.result(timeout=SECONDS + 10)
        code = grpc.StatusCode.CANCELLED if way == "cancel" else grpc.StatusCode.DEADLINE_EXCEEDED
        assert call.code() == code
    # Nobody waits for the engine.
    server.wait_for(lambda: len(_ends(server, method)) > before)
    return _ends(server, method)[-1]


def _bytes(method: str) -> bytes:
    content: bytes = REQUESTS[method].SerializeToString()
    return content


def _quicken(server: ServerProcess) -> None:
    """Let it forget the steps that stood: it would take no call whose deadline is near."""
    row, before = np.ones((1, 128), np.float32), len(_ends(server, "Verbalize"))
    assert server.stub.Verbalize(verbalize_request(row, max_new_tokens=80)).explanations
    # Its line is written after its answer, and is no other call's.
    server.wait_for(lambda: len(_ends(server, "Verbalize")) > before)


@pytest.mark.parametrize("way", ["deadline", "cancel", "vanish"])
@pytest.mark.parametrize(("phase", "method"), PHASES)
def test_in_the_engine(
    server: ServerProcess, phases: Phases, phase: str, method: str, way: str
) -> None:
    if way == "deadline":
        _quicken(server)
    with phases.held(phase) as is_there:
        ended = _give_up(server, method, way, is_there)
    assert ended == (EXPIRED if way == "deadline" else CANCELLED)


@pytest.mark.parametrize("way", ["deadline", "cancel", "vanish"])
@pytest.mark.parametrize("method", WORKING)
def test_queued(server: ServerProcess, phases: Phases, method: str, way: str) -> None:
    """Before the engine has even taken it, as it is busy with another; that one ends well."""
    if way == "deadline":
        _quicken(server)
    with phases.held(DECODE) as is_there:
        other = begin(server, "StreamVerbalize")
        server.wait_for(is_there)
        # The other one, this one, and the call that asks.
        ended = _give_up(server, method, way, lambda: server.stats().calls_in_flight == 3)
        assert ended == (EXPIRED if way == "deadline" else CANCELLED)
    assert len([one for message in other for one in message.explanations]) == 2


@pytest.mark.parametrize("method", REQUESTS)
def test_the_reply_is_not_read(server: ServerProcess, method: str) -> None:
    """All of it is on its way to a client that is gone."""
    before = len(_ends(server, method))
    connection = RawConnection(server.address)
    connection.call(f"/gloss_api.v1.GlossService/{method}", (), _bytes(method))
    server.calls.add(method)
    server.wait_for(lambda: len(_ends(server, method)) > before)
    connection.vanish()
    assert _ends(server, method)[before] == ("OK", None)


@pytest.mark.parametrize("way", ["deadline", "cancel"])
@pytest.mark.parametrize("method", sorted(STREAMS))
def test_after_the_last_token(server: ServerProcess, method: str, way: str) -> None:
    """The server has ended a stream of which its client has read the start."""
    _quicken(server)
    before = len(_ends(server, method))
    began = time.monotonic()
    stream = begin(server, method, SECONDS)
    next(stream)
    server.wait_for(lambda: len(_ends(server, method)) > before)
    assert _ends(server, method)[-1] == ("OK", None)
    if way == "cancel":
        stream.cancel()
    else:
        server.wait_for(lambda: time.monotonic() - began > SECONDS)
    try:
        # What has come can still be read, and then the end, too.
        list(stream)
    except grpc.RpcError:
        assert stream.code().name == ("CANCELLED" if way == "cancel" else "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("num_bytes", [None, 3, 7])
@pytest.mark.parametrize("way", ["deadline", "cancel", "vanish"])
@pytest.mark.parametrize("method", ["Verbalize", "Watch"])
def test_before_its_request_has_come(
    server: ServerProcess, method: str, way: str, num_bytes: int | None
) -> None:
    """Opened, and no more, or with a part of a message: no call has begun, so none is counted."""
    path = f"/gloss_api.v1.GlossService/{method}"
    connection = RawConnection(server.address)
    headers = [(b"grpc-timeout", b"200m")] if way == "deadline" else []
    if num_bytes is None:
        stream = connection.open(path, headers)
    else:
        stream = connection.cut_off(path, _bytes(method), num_bytes, headers)
    if way == "cancel":
        connection.cancel(stream)
    elif way == "deadline":
        connection.wait_end(stream)
    # Whoever shares the connection, or has another, is answered.
    if way != "vanish":
        assert connection.status(connection.call("/gloss_api.v1.GlossService/GetStats")) == 0
        server.calls.add("GetStats")
    connection.vanish()
