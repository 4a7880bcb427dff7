"""Priorities on a real server: who waits for whom, and what is kept free for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.server_process import ServerProcess
from support.service_calls import fault, verbalize_request

_SLOTS, _BATCH = 2, 24


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two slots, and a queue of 32 of which batch calls may fill 24."""
    log = tmp_path_factory.mktemp("priorities") / "server.log"
    settings = {"num_slots": _SLOTS, "max_queued_explanations": 32, "batch_queue_share": 0.75}
    with ServerProcess(log, settings=settings) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def rows(server: ServerProcess) -> np.ndarray:
    d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
    return np.random.default_rng(3).normal(size=(_BATCH, d_model)).astype(np.float32)


def _batch(rows: np.ndarray) -> pb.VerbalizeRequest:
    request = verbalize_request(rows, seed=1, max_new_tokens=60)
    request.priority = pb.PRIORITY_BATCH
    return request


def _waiting_batch(server: ServerProcess) -> int:
    return server.stats().waiting_batch


def test_an_interactive_call_overtakes_a_waiting_batch(
    server: ServerProcess, rows: np.ndarray
) -> None:
    batch = server.stub.Verbalize.future(_batch(rows), timeout=60)
    server.wait_for(lambda: _waiting_batch(server) > _BATCH // 2)
    reply = server.stub.Verbalize(verbalize_request(rows[:1], seed=1), timeout=60)
    assert reply.explanations[0].explanation
    assert _waiting_batch(server) > 0, "the batch was over: nothing was overtaken"
    assert len(batch.result().explanations) == _BATCH
    server.wait_idle()


def test_batch_goes_on_beside_interactive_calls_that_never_cease(
    server: ServerProcess, rows: np.ndarray
) -> None:
    stop = threading.Event()
    refused: list[grpc.RpcError] = []

    def call() -> None:
        while not stop.is_set():
            try:
                server.stub.Verbalize(verbalize_request(rows[:2], seed=2), timeout=60)
            except grpc.RpcError as error:
                refused.append(error)

    # More than there are slots: without a share of its own the batch would never begin.
    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        server.wait_for(lambda: server.stats().waiting > 0)
        reply = server.stub.Verbalize(_batch(rows[:6]), timeout=60)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert len(reply.explanations) == 6 and not refused
    server.wait_idle()


def test_a_part_of_the_queue_is_kept_for_interactive_calls(
    server: ServerProcess, rows: np.ndarray
) -> None:
    batch = server.stub.Verbalize.future(_batch(rows), timeout=60)
    server.wait_for(lambda: _waiting_batch(server) > _BATCH // 2)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Verbalize(_batch(rows), timeout=60)
    assert fault(caught.value)[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    began = time.monotonic()
    reply = server.stub.Verbalize(verbalize_request(rows[:4], seed=1), timeout=60)
    assert len(reply.explanations) == 4 and time.monotonic() - began < 30
    batch.result()
    server.wait_idle()


def test_a_small_call_is_not_refused_for_what_a_large_one_has_waiting(
    server: ServerProcess, rows: np.ndarray
) -> None:
    large = verbalize_request(rows, seed=1, max_new_tokens=60)
    began = time.monotonic()
    server.stub.Verbalize(large, timeout=60)
    seconds = time.monotonic() - began
    beside = server.stub.Verbalize.future(large, timeout=60)
    server.wait_for(lambda: server.stats().waiting > _BATCH // 2)
    # Behind all of the large one it would not be done by then.
    small = verbalize_request(rows[:1], seed=2, max_new_tokens=60)
    reply = server.stub.Verbalize(small, timeout=seconds / 2)
    assert reply.explanations[0].explanation and not beside.done()
    assert len(beside.result().explanations) == _BATCH
    server.wait_idle()
