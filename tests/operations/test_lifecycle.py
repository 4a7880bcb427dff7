"""A server that loses its engine, and one that is shut down."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.checkpoints import Pair
from support.client_calls import ClientCalls
from support.edits import long_winded
from support.invariants import CheckedServer, check, logged
from support.load_threads import Load
from support.service_calls import (
    NOT_SERVING,
    SERVING,
    fault,
    health,
    pushback_ms,
    reason_of,
    stream_request,
    verbalize_request,
)

WITH_WORKER = (sys.executable, "-m", "support.serve_with_worker")
Stub = gloss_pb2_grpc.GlossServiceStub


def _stream(stub: Stub, rows: np.ndarray) -> int:
    num_done = 0
    for message in stub.StreamVerbalize(stream_request(rows), timeout=30):
        num_done += len(message.explanations)
    assert num_done == len(rows), "a stream ended well without all its explanations"
    return num_done


def test_the_engine_is_killed_under_load(tmp_path: Path, story_rows: np.ndarray) -> None:
    """In flight: UNAVAILABLE with a reason. Health follows, and it serves again."""
    with CheckedServer(tmp_path / "log").wait_ready() as server:

        def call(number: int) -> None:
            rows = story_rows[number * 8 : number * 8 + 8]
            if number % 2:
                _stream(server.stub, rows)
            else:
                reply = server.stub.Verbalize(verbalize_request(rows), timeout=30)
                assert len(reply.explanations) == 8

        load = Load(call, 8)
        server.wait_for(lambda: server.stats().running > 8)
        for _ in range(2):
            pid = server.engine_pid
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            server.wait_for(lambda: health(server.channel) == NOT_SERVING)
            with pytest.raises(grpc.RpcError) as caught:
                server.stub.GetModelInfo(pb.GetModelInfoRequest())
            assert fault(caught.value) == ("UNAVAILABLE", "LOADING", None)
            assert pushback_ms(caught.value)
            state = server.stats().state
            assert state == pb.SERVING_STATE_RESTARTING
            server.wait_for(lambda: health(server.channel) == SERVING)
            server.stub.Verbalize(verbalize_request(story_rows[:1]))
            assert time.monotonic() - killed < 30
            assert server.engine_pid != pid
        ended = load.stop()
        assert ended["OK", None] > 0 and ended["UNAVAILABLE", "ENGINE_RESTARTED"] > 0
        assert set(ended) <= {
            ("OK", None),
            ("UNAVAILABLE", "ENGINE_RESTARTED"),
            ("UNAVAILABLE", "LOADING"),
        }
        assert server.wait_idle().engine_restarts == 2
        assert all(died["restarts_in"] <= 1 for died in server.events("engine_died"))
        check(server)
        assert server.terminate() == 0


def test_the_engine_hangs(tmp_path: Path, story_rows: np.ndarray) -> None:
    """The same, by heartbeat."""
    settings: dict[str, object] = {"heartbeat_timeout_seconds": 2}
    with CheckedServer(tmp_path / "log", settings=settings).wait_ready() as server:
        os.kill(server.engine_pid, signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Verbalize(verbalize_request(story_rows[:1]), timeout=20)
        assert fault(caught.value) == ("UNAVAILABLE", "ENGINE_RESTARTED", None)
        server.wait_for(lambda: health(server.channel) == SERVING)
        assert server.stub.Verbalize(verbalize_request(story_rows[:1])).explanations
        assert "silent" in server.events("engine_died")[0]["reason"]


def test_a_crash_loop_ends_the_server(tmp_path: Path) -> None:
    settings: dict[str, object] = {"restart_limit": 1}
    with CheckedServer(tmp_path / "log", settings=settings).wait_ready() as server:
        os.kill(server.engine_pid, signal.SIGKILL)
        server.wait_for(lambda: len(server.events("engine_loaded")) == 2)
        os.kill(server.engine_pid, signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert "error: the engine died 2 times within 60 s" in server.output()
        assert "Traceback" not in server.output()


def test_the_front_is_killed(tmp_path: Path) -> None:
    """Its engine goes with it."""
    with CheckedServer(tmp_path / "log").wait_ready() as server:
        engine = Path(f"/proc/{server.engine_pid}")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        deadline = time.monotonic() + 5
        while engine.exists():
            assert time.monotonic() < deadline, "the engine outlived its front"
            time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_server_ends(tmp_path: Path, number: signal.Signals) -> None:
    """Within five seconds, with status 0, although somebody watches its health."""
    with CheckedServer(tmp_path / "log").wait_ready() as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        began = time.monotonic()
        server.process.send_signal(number)
        assert next(watch).status == NOT_SERVING
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 5
        assert [event["event"] for event in server.lines()][-2:] == ["draining", "stopped"]
        engines = [line for line in server.output().splitlines() if "Traceback" in line]
        assert not engines


def test_an_engine_that_fails_in_a_step(tmp_path: Path, story_rows: np.ndarray) -> None:
    """The log says why, callers hear that it restarts, and the next engine serves."""
    command = (*WITH_WORKER, "support.failing_worker")
    with CheckedServer(tmp_path / "log", command=command).wait_ready() as server:
        rows = story_rows[:1] * 1e7
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Verbalize(verbalize_request(rows))
        assert fault(caught.value) == ("UNAVAILABLE", "ENGINE_RESTARTED", None)
        assert "a step fails" not in caught.value.details()
        server.wait_for(lambda: health(server.channel) == SERVING)
        assert server.stub.Verbalize(verbalize_request(story_rows[:1])).explanations
        (failed,) = server.events("engine_failed")
        assert "a step fails" in failed["reason"] and "Traceback" in failed["traceback"]
        (died,) = server.events("engine_died")
        assert died["reason"] == failed["reason"]
        assert all(line.startswith(("{", "gloss ready")) for line in server.output().splitlines())


def test_sigterm_under_load(tmp_path: Path, story_rows: np.ndarray) -> None:
    """Two replicas behind client-side round_robin; one drains, and no call fails."""
    config = (
        '{"loadBalancingConfig": [{"round_robin": {}}],'
        ' "healthCheckConfig": {"serviceName": "gloss_api.v1.GlossService"}}'
    )
    with (
        CheckedServer(tmp_path / "a") as leaving,
        CheckedServer(tmp_path / "b") as staying,
    ):
        addresses = [server.wait_ready().address for server in (leaving, staying)]
        calls = ClientCalls()
        plain = grpc.insecure_channel(
            f"ipv4:{','.join(addresses)}", options=[("grpc.service_config", config)]
        )
        with calls.recording(plain) as channel:
            stub = Stub(channel)

            def call(number: int) -> None:
                rows = story_rows[number * 4 : number * 4 + 4]
                if number % 2:
                    _stream(stub, rows)
                else:
                    reply = stub.Verbalize(verbalize_request(rows), timeout=30)
                    assert len(reply.explanations) == 4

            load = Load(call, 6)
            for server in (leaving, staying):
                server.wait_for(lambda server=server: server.stats().running > 0)
            assert leaving.terminate(20) == 0
            time.sleep(0.3)
            ended = load.stop()
        assert set(ended) == {("OK", None)}, ended
        assert ended["OK", None] > 20
        assert "Traceback" not in leaving.output()
        # What one of the two did not answer the other did.
        there = logged(leaving)
        for (code, method), count in calls.tally().answered.items():
            staying.calls.add(method, count - there[code, method])


def test_calls_in_flight_end_well(tmp_path: Path, story_rows: np.ndarray) -> None:
    """One server alone: what it had begun it finishes, a second signal or not enough grace ends."""
    with CheckedServer(tmp_path / "log").wait_ready() as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_stream, server.stub, story_rows[:400])
            server.wait_for(lambda: server.stats().running > 100)
            server.process.send_signal(signal.SIGTERM)
            assert running.result(30) == 400
        assert server.process.wait(30) == 0


def test_grace_ends(tmp_path: Path, pairs: dict[str, Pair]) -> None:
    settings: dict[str, object] = {
        "max_new_tokens": 20_000,
        "num_slots": 2,
        "grace_seconds": 0.5,
        "drain_seconds": 0,
    }
    av = long_winded(pairs["qwen2"].av, tmp_path / "av")
    with CheckedServer(tmp_path / "log", {"av": av}, settings).wait_ready() as server:
        rows = np.ones((2, 72), np.float32)
        request = stream_request(rows, temperature=0, max_new_tokens=20_000)
        call = server.stub.StreamVerbalize(request, timeout=60)
        next(call)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            for _ in call:
                pass
        assert fault(caught.value) == ("UNAVAILABLE", "DRAINING", None)
        assert server.process.wait(30) == 0


def test_a_row_of_non_finite_logits_fails_alone(tmp_path: Path, story_rows: np.ndarray) -> None:
    command = (*WITH_WORKER, "support.poisoned_worker")
    with CheckedServer(tmp_path / "log", command=command).wait_ready() as server:
        rows = story_rows[:6].copy()
        rows[2] *= 1e7
        good = server.stub.Verbalize(verbalize_request(story_rows[:6], seed=1))
        reply = server.stub.Verbalize(verbalize_request(rows, seed=1))
        for got, wanted in zip(reply.explanations, good.explanations, strict=True):
            if got.item_index == 2:
                assert got.error.code == grpc.StatusCode.INTERNAL.value[0]
                assert reason_of(got.error) == "NON_FINITE_OUTPUT"
            else:
                assert got.token_ids == wanted.token_ids
        assert not server.events("engine_died")


def test_a_client_is_held_to_its_rate(tmp_path: Path, story_rows: np.ndarray) -> None:
    settings: dict[str, object] = {"client_tokens_per_second": 50, "client_burst_seconds": 1}
    with CheckedServer(tmp_path / "log", settings=settings).wait_ready() as server:
        request = verbalize_request(story_rows[:4], max_new_tokens=20)
        assert server.stub.Verbalize(request).explanations
        # The second time for the call that checks the server.
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                for _ in range(3):
                    server.stub.Verbalize(request)
            assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED", None)
            pushback = pushback_ms(caught.value)
            assert pushback is not None and 0 < pushback < 5000
            time.sleep(pushback / 1000 + 0.05)
