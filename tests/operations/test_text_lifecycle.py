"""Explain, Watch and Capture while the engine dies and while the server is shut down."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.invariants import CheckedServer
from support.server_process import ServerProcess
from support.service_calls import fault, pushback_ms
from support.text_calls import (
    STORY,
    Captured,
    Told,
    capture_request,
    explain_request,
    watch_request,
)

SAID = 36
"""Tokens of the target, greedily: it ends by itself two later."""
MANY = [f"{STORY} He waits." for _ in range(400)]


def _explain(server: ServerProcess) -> Told:
    call = server.stub.Explain(explain_request(" ".join([STORY] * 6), num_samples=2), timeout=60)
    return Told.by(call)


def _watch(server: ServerProcess) -> Told:
    greedy = {"max_new_tokens": SAID, "temperature": 0.0}
    request = watch_request(target_options=greedy, tokens_per_second=20)
    return Told.by(server.stub.Watch(request, timeout=60))


def _capture(server: ServerProcess) -> Captured:
    return Captured.by(server.stub.Capture(capture_request(*MANY), timeout=60))


CALLS: tuple[Callable[[ServerProcess], Any], ...] = (_explain, _watch, _capture)


def _in_flight(server: ServerProcess) -> bool:
    now = server.stats()
    # The call that asks is one itself.
    return now.calls_in_flight == 4 and now.watching == 1 and now.running > 0 and now.captured > 100


def test_the_engine_is_killed(tmp_path: Path) -> None:
    """Who is in flight hears of it; what the runs had taken is there again."""
    with CheckedServer(tmp_path / "log").wait_ready() as server:
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(call, server) for call in CALLS]
            server.wait_for(lambda: _in_flight(server))
            os.kill(server.engine_pid, signal.SIGKILL)
            for future in running:
                with pytest.raises(grpc.RpcError) as caught:
                    future.result(10)
                assert fault(caught.value) == ("UNAVAILABLE", "ENGINE_RESTARTED", None)
                assert pushback_ms(caught.value)
        with pytest.raises(grpc.RpcError) as caught:
            next(server.stub.Watch(watch_request(), timeout=5))
        assert fault(caught.value) == ("UNAVAILABLE", "LOADING", None)
        server.wait_for(lambda: server.stats().state == pb.SERVING_STATE_SERVING)
        idle = server.wait_idle()
        assert idle.reading == idle.watching == 0
        told, watched, read = (call(server) for call in CALLS)
        assert len(told.explanations) == 2 * len(told.ids)
        assert len(watched.said) == SAID and len(read.rows) == 400 * 32
        counts = server.wait_idle()
        # What the dead engines had done is still counted.
        assert counts.engine_restarts == 1 and counts.captured > 400 * 32 + 100
        assert not server.events("defect")


def test_calls_in_flight_end_well(tmp_path: Path) -> None:
    with CheckedServer(tmp_path / "log").wait_ready() as server:
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(call, server) for call in CALLS]
            server.wait_for(lambda: _in_flight(server))
            server.process.send_signal(signal.SIGTERM)
            told, watched, read = (future.result(30) for future in running)
        assert len(told.explanations) == 2 * len(told.ids)
        assert len(watched.said) == SAID and watched.end is not None
        assert len(read.rows) == 400 * 32
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.output()
