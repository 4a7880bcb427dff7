"""Clients that do not read their stream, on a real server: they are told, and nobody else pays."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1.gloss_pb2_grpc import GlossServiceStub
from support.invariants import CheckedServer, check
from support.raw_http2 import RawConnection
from support.server_process import ServerProcess
from support.service_calls import NOT_SERVING, fault, pushback_ms, stream_request
from support.text_calls import explain_request, watch_request

_SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
"""Of a client: a stream's second message waits already, in place of the one behind 4.5 MB."""
_MAX_UNREAD_BYTES = 100_000
_ENDS_AT_ONCE = {"max_unread_bytes": 1, "drain_seconds": 0, "grace_seconds": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("slow_reader") / "server.log"
    settings = {"max_unread_bytes": _MAX_UNREAD_BYTES, "num_slots": 8}
    with CheckedServer(log, settings=settings) as process:
        yield process.wait_ready()


@pytest.fixture(autouse=True)
def nothing_is_left(server: ServerProcess) -> Iterator[None]:
    yield
    check(server)


@pytest.fixture(scope="module")
def rows(server: ServerProcess) -> np.ndarray:
    d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
    return np.random.default_rng(5).normal(size=(400, d_model)).astype(np.float32)


def _verbalize(stub: GlossServiceStub, rows: np.ndarray, **call: Any) -> Any:
    return stub.StreamVerbalize(stream_request(rows, seed=1, max_new_tokens=20), **call)


def _explain(stub: GlossServiceStub, rows: np.ndarray, **call: Any) -> Any:
    return stub.Explain(explain_request(seed=1, num_samples=16, max_new_tokens=20), **call)


def _watch(stub: GlossServiceStub, rows: np.ndarray, **call: Any) -> Any:
    request = watch_request(max_pending=4)
    request.options.CopyFrom(pb.GenerationOptions(seed=1, num_samples=32, max_new_tokens=20))
    return stub.Watch(request, **call)


def _tokens(server: ServerProcess, rows: np.ndarray) -> list[int]:
    """Of a short stream, read as it comes."""
    stream = _verbalize(server.stub, rows[:1], timeout=60)
    return [token for m in stream for delta in m.deltas for token in delta.token_ids]


def _slow_ends(server: ServerProcess, method: str) -> int:
    lines = server.events("call")
    return sum((line["method"], line["reason"]) == (method, "SLOW_READER") for line in lines)


@pytest.mark.parametrize(
    ("method", "begin"),
    [("StreamVerbalize", _verbalize), ("Explain", _explain), ("Watch", _watch)],
)
@pytest.mark.parametrize("timeout", [60, None], ids=["deadline", "no_deadline"])
def test_who_does_not_read_is_out_of_the_engine_and_told(
    server: ServerProcess,
    rows: np.ndarray,
    method: str,
    begin: Callable[..., Any],
    timeout: float | None,
) -> None:
    before = _slow_ends(server, method)
    alone = _tokens(server, rows)
    with server.open_channel(_SMALL_WINDOW) as channel:
        stream = begin(GlossServiceStub(channel), rows, timeout=timeout)
        next(stream)
        # A neighbour is served meanwhile, with what it would get alone.
        assert _tokens(server, rows) == alone
        server.wait_for(lambda: _slow_ends(server, method) == before + 1)
        stats = server.wait_idle()
        assert stats.running == stats.kv_pages_used == 0
        # What was sent can still be read, and then why it ended.
        with pytest.raises(grpc.RpcError) as caught:
            for _ in stream:
                pass
    assert fault(caught.value) == ("RESOURCE_EXHAUSTED", "SLOW_READER", None)
    assert pushback_ms(caught.value) == -1


def test_another_reader_of_the_same_run_gets_it_all(
    server: ServerProcess, rows: np.ndarray
) -> None:
    before = _slow_ends(server, "StreamVerbalize")
    request = stream_request(rows[:80], "read by two", seed=1, max_new_tokens=20)
    with server.open_channel(_SMALL_WINDOW) as channel:
        slow = GlossServiceStub(channel).StreamVerbalize(request, timeout=60)
        next(slow)
        messages = list(server.stub.StreamVerbalize(request, timeout=60))
        server.wait_for(lambda: _slow_ends(server, "StreamVerbalize") == before + 1)
        slow.cancel()
    assert sum(len(message.explanations) for message in messages) == 80


def test_who_reads_slowly_but_reads_gets_all(server: ServerProcess, rows: np.ndarray) -> None:
    with server.open_channel(_SMALL_WINDOW) as channel:
        stream = _verbalize(GlossServiceStub(channel), rows[:24], timeout=60)
        next(stream)
        # All of it comes while nobody reads, and is less than may wait.
        server.wait_for(lambda: server.stats().waiting + server.stats().running == 0)
        messages = list(stream)
    assert sum(len(message.explanations) for message in messages) == 24
    assert messages[-1].HasField("end")


def test_what_is_read_late_comes_whole_from_a_server_that_ends(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its call has ended as far as the handler can tell: gRPC holds what is on its way. Somebody
    who watches health holds up nothing."""
    log = tmp_path_factory.mktemp("late_end") / "server.log"
    with CheckedServer(log, settings={"drain_seconds": 0}) as server:
        server.wait_ready()
        watch = HealthStub(server.channel).Watch(HealthCheckRequest())
        next(watch)
        request = pb.ReconstructRequest(texts=["a text"] * 256)
        with RawConnection(server.address) as connection:
            path = "/gloss_api.v1.GlossService/Reconstruct"
            stream = connection.call(path, message=request.SerializeToString())
            server.calls.add("Reconstruct")
            server.wait_for(lambda: server.events("call"))
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: server.events("draining"))
            time.sleep(0.5)
            connection.widen(stream)
            assert connection.status(stream) == 0
        assert server.process.wait(30) == 0
        assert [message.status for message in watch] == [NOT_SERVING]


def test_a_server_ends_although_nobody_reads(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("slow_end") / "server.log"
    with (
        CheckedServer(log, settings=_ENDS_AT_ONCE) as server,
        server.wait_ready().open_channel(_SMALL_WINDOW) as channel,
    ):
        d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
        rows = np.random.default_rng(5).normal(size=(100, d_model))
        stream = _verbalize(GlossServiceStub(channel), rows)
        next(stream)
        server.wait_for(lambda: _slow_ends(server, "StreamVerbalize") == 1)
        assert server.terminate() == 0
        stream.cancel()
        assert "Traceback" not in server.output()
