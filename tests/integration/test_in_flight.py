"""Calls that end before they are answered, and calls there is no room for: nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.invariants import checked
from support.server_process import ServerProcess
from support.service_calls import (
    fault,
    pushback_ms,
    retry_seconds,
    stream_request,
    verbalize_request,
)

WIDTH = 72
LONG = {"temperature": 0.0, "max_new_tokens": 20_000}


def _rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, WIDTH)).astype(np.float32)


def _deltas(message: pb.StreamVerbalizeResponse) -> int:
    return sum(len(delta.token_ids) for delta in message.deltas)


def _last_code(server: ServerProcess) -> str:
    """What the log says of the last call that explained something."""
    codes = [line["code"] for line in server.events("call") if "Verbalize" in line["method"]]
    return str(codes[-1])


@pytest.fixture(autouse=True)
def idle_before_and_after(endless: ServerProcess) -> Iterator[None]:
    """Every test finds and leaves the server idle."""
    with checked(endless):
        yield


@pytest.mark.parametrize("kind", ["unary", "stream"])
@pytest.mark.parametrize("num_rows", [2, 7])
def test_the_deadline_passes(endless: ServerProcess, kind: str, num_rows: int) -> None:
    """Running, and with more activations than slots also queued; its slots are free at once."""
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        if kind == "unary":
            endless.stub.Verbalize(verbalize_request(_rows(num_rows), **LONG), timeout=0.4)
        else:
            list(endless.stub.StreamVerbalize(stream_request(_rows(num_rows), **LONG), timeout=0.4))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 1.4
    endless.wait_idle(1)
    endless.wait_for(lambda: _last_code(endless) == "DEADLINE_EXCEEDED", 2)


def test_the_servers_own_deadline(endless: ServerProcess) -> None:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        endless.stub.Verbalize(verbalize_request(_rows(1), **LONG))
    assert fault(caught.value) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None)
    assert 1.4 < time.monotonic() - began < 2.5


def test_the_servers_own_deadline_on_a_stream(endless: ServerProcess) -> None:
    num_tokens, caught = 0, None
    try:
        for message in endless.stub.StreamVerbalize(stream_request(_rows(2), **LONG)):
            num_tokens += _deltas(message)
    except grpc.RpcError as error:
        caught = error
    assert caught is not None and num_tokens > 10
    assert fault(caught) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", None)


@pytest.mark.parametrize("after_tokens", [0, 1, 50])
def test_a_stream_is_cancelled(endless: ServerProcess, after_tokens: int) -> None:
    call = endless.stub.StreamVerbalize(stream_request(_rows(5), **LONG))
    seen = 0
    while seen < after_tokens:
        seen += _deltas(next(call))
    call.cancel()
    endless.wait_idle(1)
    if seen:
        # Else it may never have reached the server.
        endless.wait_for(lambda: _last_code(endless) == "CANCELLED", 2)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.2])
def test_a_unary_call_is_cancelled(endless: ServerProcess, delay: float) -> None:
    call = endless.stub.Verbalize.future(verbalize_request(_rows(5), **LONG))
    time.sleep(delay)
    call.cancel()
    endless.wait_idle(1)


def test_the_others_go_on(endless: ServerProcess) -> None:
    """A call that leaves takes nobody along, and who waited gets its slots."""
    leaving = endless.stub.StreamVerbalize(stream_request(_rows(4), **LONG))
    while not _deltas(next(leaving)):
        pass
    waiting = endless.stub.Verbalize.future(
        verbalize_request(_rows(2), max_new_tokens=20, temperature=0), timeout=10
    )
    time.sleep(0.05)
    assert not waiting.done()
    leaving.cancel()
    assert len(waiting.result().explanations) == 2


def test_a_joined_run_outlives_the_first_caller(endless: ServerProcess) -> None:
    request = stream_request(_rows(1), "joined", **LONG)
    first = endless.stub.StreamVerbalize(request, timeout=10)
    next(first)
    second = endless.stub.StreamVerbalize(request, timeout=10)
    next(second)
    first.cancel()
    time.sleep(0.1)
    seen = 0
    for message in second:
        seen += _deltas(message)
        if seen > 40:
            break
    second.cancel()
    endless.wait_idle()
    # Nobody read it any more, so it was given up, and the id is free for another request.
    other = verbalize_request(_rows(1), "joined", max_new_tokens=1)
    assert endless.stub.Verbalize(other).explanations


def _read_for_ever(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = gloss_pb2_grpc.GlossServiceStub(channel)
        for _ in stub.StreamVerbalize(stream_request(_rows(3), **LONG)):
            pass


def test_a_client_is_killed_mid_stream(endless: ServerProcess) -> None:
    client = multiprocessing.get_context("spawn").Process(
        target=_read_for_ever, args=(endless.address,)
    )
    client.start()
    endless.wait_for(lambda: endless.stats().running == 3)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    client.join()
    endless.calls.add("StreamVerbalize")
    endless.wait_idle(2)


def test_the_queue_is_full(endless: ServerProcess) -> None:
    """Eight explanations may be in flight; the ninth is told when to come back."""
    running = endless.stub.StreamVerbalize(stream_request(_rows(6), **LONG))
    next(running)
    with pytest.raises(grpc.RpcError) as caught:
        endless.stub.Verbalize(verbalize_request(_rows(3), max_new_tokens=10))
    assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", None)
    seconds, pushback = retry_seconds(caught.value), pushback_ms(caught.value)
    assert seconds is not None and pushback == round(seconds * 1000) and 50 <= pushback <= 10_000
    running.cancel()
    endless.wait_idle()
    assert endless.stub.Verbalize(verbalize_request(_rows(3), max_new_tokens=10)).explanations


def test_the_queue_is_full_of_tokens(endless: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        endless.stub.Verbalize(verbalize_request(_rows(9), max_new_tokens=10))
    assert fault(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE", "options")


def test_a_deadline_that_cannot_be_met(endless: ServerProcess) -> None:
    long = {"max_new_tokens": 400, "temperature": 0}
    began = time.monotonic()
    endless.stub.Verbalize(verbalize_request(_rows(4), **long), timeout=60)
    took = time.monotonic() - began
    before = endless.stats().generated_tokens
    with pytest.raises(grpc.RpcError) as caught:
        # Twice as many activations as slots, in half the time.
        endless.stub.Verbalize(verbalize_request(_rows(8), **long), timeout=took / 2)
    # The server says so at once; the client's own clock may be faster on a busy machine.
    if caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "DEADLINE_UNREACHABLE", None)
        assert pushback_ms(caught.value) is not None
    endless.wait_for(
        lambda: any(e["reason"] == "DEADLINE_UNREACHABLE" for e in endless.events("call"))
    )
    assert endless.stats().generated_tokens == before


def test_a_storm_of_calls_that_give_up(endless: ServerProcess) -> None:
    """Calls of every kind, cancelled and expiring at random moments, leave nothing behind."""
    stop = time.monotonic() + 3

    def storm(seed: int) -> int:
        random = np.random.default_rng(seed)
        ended = 0
        with endless.open_channel() as channel:
            stub = gloss_pb2_grpc.GlossServiceStub(channel)
            while time.monotonic() < stop:
                rows = _rows(int(random.integers(1, 4)))
                timeout = float(random.choice([0.001, 0.01, 0.05, 5]))
                try:
                    if random.random() < 0.5:
                        call = stub.Verbalize.future(
                            verbalize_request(rows, **LONG), timeout=timeout
                        )
                        time.sleep(float(random.choice([0, 0.003, 0.03])))
                        call.cancel()
                    else:
                        stream = stub.StreamVerbalize(stream_request(rows, **LONG), timeout=timeout)
                        for _ in range(int(random.integers(0, 4))):
                            next(stream)
                        stream.cancel()
                except grpc.RpcError as error:
                    assert error.code() in (  # type: ignore[attr-defined]
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        grpc.StatusCode.RESOURCE_EXHAUSTED,
                    ), error
                ended += 1
        return ended

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(storm, range(6))) > 60
    endless.wait_idle()
    assert endless.stub.Verbalize(verbalize_request(_rows(1), max_new_tokens=5)).explanations
    assert not endless.events("defect")


def test_every_call_has_ended_once(endless: ServerProcess) -> None:
    """Also after all the tests before: as many calls are counted in as out."""
    assert endless.stats().calls_in_flight == 1
    assert not endless.events("engine_refused") and not endless.events("engine_died")


def test_a_health_watcher_hears_of_it(endless: ServerProcess) -> None:
    """Watch says what Check says, and goes on."""
    watch = health_pb2_grpc.HealthStub(endless.channel).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    threading.Timer(0.1, watch.cancel).start()
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() == grpc.StatusCode.CANCELLED
