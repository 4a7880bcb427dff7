"""An engine that dies or hangs under calls of every method: all end once, and others go on."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from support.invariants import CheckedServer
from support.load_threads import Load
from support.server_process import ServerProcess
from support.service_calls import NOT_SERVING, SERVING, health
from support.short_requests import REQUESTS, STREAMS, begin

ASKING = ("GetModelInfo", "GetStats")
WORKING = tuple(method for method in REQUESTS if method not in ASKING)
EACH = 2
"""Threads that call a method."""
IN_FLIGHT = EACH * len(WORKING)
RESTARTED, LOADING = ("UNAVAILABLE", "ENGINE_RESTARTED"), ("UNAVAILABLE", "LOADING")


def _call(server: ServerProcess, method: str) -> None:
    """One call, read to its end."""
    call = begin(server, method)
    if method in STREAMS:
        assert list(call), "a stream ended well without a message"
    else:
        call.result()


def _load(server: ServerProcess, methods: tuple[str, ...]) -> Load:
    return Load(lambda n: _call(server, methods[n % len(methods)]), EACH * len(methods))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_under_calls_of_every_method(tmp_path: Path, number: signal.Signals) -> None:
    settings: dict[str, object] = {"heartbeat_timeout_seconds": 4}
    with CheckedServer(tmp_path / "log", settings=settings).wait_ready() as server:
        working = _load(server, WORKING)
        server.wait_for(lambda: _answered(server) >= set(WORKING))
        pid = server.engine_pid
        os.kill(pid, signal.SIGSTOP)
        # A call of every thread, and the one that asks.
        server.wait_for(lambda: server.stats().calls_in_flight == IN_FLIGHT + 1)
        asking = _load(server, ASKING)
        server.wait_for(lambda: asking.ended.total() > 10)
        os.kill(pid, number)
        server.wait_for(lambda: health(server.channel) == NOT_SERVING)
        ended = working.stop() + asking.stop()
        assert ended["OK", None] and set(ended) <= {("OK", None), RESTARTED, LOADING}, ended
        server.wait_for(lambda: health(server.channel) == SERVING, 60)
        for method in REQUESTS:
            _call(server, method)
        server.wait_idle()
        lines = [line for line in server.events("call") if line["reason"] == RESTARTED[1]]
        assert Counter(line["method"] for line in lines) == dict.fromkeys(WORKING, EACH)
        assert len(server.events("engine_died")) == 1


def _answered(server: ServerProcess) -> set[str]:
    return {line["method"] for line in server.events("call") if line["code"] == "OK"}
