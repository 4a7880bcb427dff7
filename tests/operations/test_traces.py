"""Traces of a real server at a real collector: one tree a call, across front and engine, without a
word of what was explained; and a collector that does not work changes nothing for calls."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.collector import Collector, Received
from support.server_process import ServerProcess
from support.service_calls import fault, stream_request, verbalize_request

TEXT = "Leo is a tailor. He meets Hugo. What will happen next? He eats fish."
D_MODEL = 128
EXPORT_SECONDS = 5
"""After so long an export is given up."""
LIFE_SECONDS = 5
"""An idle server ends within so long."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, collector: Collector
) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("traces") / "log"
    # Only what a caller traces is traced: each test finds its own.
    settings: dict[str, object] = {"traces": collector.url, "trace_ratio": 0}
    with ServerProcess(log, settings=settings) as server:
        yield server.wait_ready()


def rows(count: int = 2) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, D_MODEL)).astype(np.float32)


def parent(sampled: bool = True) -> tuple[str, str, list[tuple[str, str]]]:
    """A caller's trace and span, and the metadata that says them."""
    trace, span = uuid4().hex, uuid4().hex[:16]
    return trace, span, [("traceparent", f"00-{trace}-{span}-{sampled:02x}")]


def root_of(collector: Collector, trace: str) -> Received:
    return collector.one(lambda span: span.trace_id == trace and span.kind == 2)


def tree(collector: Collector, trace: str, phases: tuple[str, ...]) -> tuple[Received, Received]:
    """A call's span and its run's, once all below them have come; times nest."""
    call = root_of(collector, trace)
    (run,) = collector.below(call)
    below = collector.below(run, len(phases))
    assert sorted(span.name for span in below) == sorted(f"gloss {name}" for name in phases)
    assert call.holds(run) and all(run.holds(span) for span in below)
    assert {span.trace_id for span in (run, *below)} == {trace}
    assert run.name == "gloss run" and run.resource["gloss.process"] == "engine"
    return call, run


CALLS: dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "Verbalize": (
        lambda name: verbalize_request(rows(), name, max_new_tokens=9, seed=1),
        ("queued", "prefill", "decode", "score"),
    ),
    "StreamVerbalize": (
        lambda name: stream_request(rows(), name, max_new_tokens=9, seed=1),
        ("queued", "prefill", "decode", "score"),
    ),
    "Explain": (
        lambda name: pb.ExplainRequest(
            request_id=name,
            input=pb.TextInput(text=TEXT),
            options=pb.GenerationOptions(max_new_tokens=9, seed=1),
        ),
        ("read", "queued", "prefill", "decode", "score"),
    ),
    "Watch": (
        lambda name: pb.WatchRequest(
            request_id=name,
            prompt=pb.TextInput(text=TEXT),
            target_options=pb.GenerationOptions(max_new_tokens=6),
            options=pb.GenerationOptions(max_new_tokens=9, seed=1),
        ),
        ("generate", "queued", "prefill", "decode", "score"),
    ),
    "Capture": (
        lambda _: pb.CaptureRequest(inputs=[pb.CaptureInput(input=pb.TextInput(text=TEXT))]),
        (),
    ),
    "Reconstruct": (
        lambda _: pb.ReconstructRequest(texts=["Leo is a tailor."]),
        ("queued", "score"),
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_call_is_a_tree_of_front_and_engine(
    server: ServerProcess, collector: Collector, method: str
) -> None:
    make, phases = CALLS[method]
    trace, span, metadata = parent()
    name = f"tree of {method}"
    before = time.time_ns()
    answer = getattr(server.stub, method)(make(name), metadata=metadata, timeout=60)
    messages = (
        [answer] if isinstance(answer, pb.VerbalizeResponse | pb.ReconstructResponse) else [*answer]
    )
    call, run = tree(collector, trace, phases)
    assert (call.name, call.parent_id) == (f"gloss_api.v1.GlossService/{method}", span)
    # Wall-clock times, in nanoseconds: the machine's clock is one.
    assert before - 1e9 < call.began <= call.ended < time.time_ns() + 1e9
    expected = {
        "rpc.system": "grpc",
        "rpc.service": "gloss_api.v1.GlossService",
        "rpc.method": method,
        "rpc.grpc.status_code": 0,
    }
    assert expected.items() <= call.attributes.items() and not call.is_error
    assert call.attributes["gloss.fingerprint"] == run.resource["gloss.fingerprint"]
    assert call.resource["service.name"] == run.resource["service.name"] == "gloss"
    assert (call.resource["gloss.process"], call.resource["service.version"]) == ("front", "0.1.0")
    assert run.attributes["gloss.outcome"] == "finished" and run.attributes["gloss.num_steps"] > 0
    if "decode" in phases:
        assert call.attributes["gloss.request_id"] == name
        assert call.attributes["gloss.priority"] == "interactive"
        assert call.attributes["gloss.num_tokens"] == run.attributes["gloss.num_tokens"] > 0
    assert call.attributes["gloss.num_items"] == run.attributes["gloss.num_items"] > 0
    (line,) = [line for line in server.events("call") if line["trace_id"] == trace]
    assert line["method"] == method and line["reply_bytes"] == sum(m.ByteSize() for m in messages)
    assert line["request_bytes"] == make(name).ByteSize()


def test_who_decides(server: ServerProcess, collector: Collector) -> None:
    untraced, _, metadata = parent(sampled=False)
    server.stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=metadata, timeout=10)
    # Not by the ratio either, and what is no trace is none.
    server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10)
    wrong = [("traceparent", "00-" + "z" * 32 + "-1-1"), ("tracestate", "=,=" * 99)]
    server.stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=wrong, timeout=10)
    traced, span, metadata = parent()
    server.stub.GetModelInfo(pb.GetModelInfoRequest(), metadata=metadata, timeout=10)
    assert root_of(collector, traced).parent_id == span
    assert all(span.trace_id != untraced for span in collector.spans)
    lines = [line for line in server.events("call") if line["method"] == "GetModelInfo"][-4:]
    assert [line["trace_id"] for line in lines] == [None, None, None, traced]


def test_calls_that_fail(server: ServerProcess, collector: Collector) -> None:
    ends = {}
    for name, request, timeout in (
        ("refused", verbalize_request(rows()[:, :5], "refused"), 60),
        ("expired", verbalize_request(rows(64), "expired", max_new_tokens=200), 0.3),
    ):
        trace, _, metadata = parent()
        with pytest.raises(grpc.RpcError):
            server.stub.Verbalize(request, metadata=metadata, timeout=timeout)
        ends[name] = root_of(collector, trace)
    trace, _, metadata = parent()
    stream = server.stub.StreamVerbalize(
        stream_request(rows(64), "cancelled", max_new_tokens=200), metadata=metadata
    )
    next(stream)
    stream.cancel()
    ends["cancelled"] = root_of(collector, trace)
    found = {
        name: (
            span.attributes["rpc.grpc.status_code"],
            span.attributes["gloss.reason"],
            span.is_error,
        )
        for name, span in ends.items()
    }
    assert found == {
        "refused": (3, "DIMENSION_MISMATCH", False),
        "expired": (4, "DEADLINE_EXCEEDED", True),
        "cancelled": (1, "CANCELLED", False),
    }
    for name in ("expired", "cancelled"):
        (run,) = collector.below(ends[name])
        assert run.attributes["gloss.outcome"] == "cancelled"
        # Taken out at the next step, a little after its call has ended.
        assert run.began >= ends[name].began and run.ended >= run.began
    server.wait_idle()


def test_a_second_reader_of_a_run_names_the_first(
    server: ServerProcess, collector: Collector
) -> None:
    request = verbalize_request(rows(), "shared", max_new_tokens=9, seed=1)
    spans = []
    for _ in range(2):
        trace, _, metadata = parent()
        server.stub.Verbalize(request, metadata=metadata, timeout=60)
        spans.append(root_of(collector, trace))
    assert spans[1].links == [spans[0].span_id] and not spans[0].links
    assert [span.parent_id for span in collector.spans].count(spans[1].span_id) == 0


def test_no_text_no_activation_and_no_secret_is_in_a_span(
    server: ServerProcess, collector: Collector
) -> None:
    trace, _, metadata = parent()
    activations = rows()
    secret = [*metadata, ("authorization", "Bearer of-nothing"), ("x-note", "of-nothing")]
    answer = server.stub.Verbalize(
        verbalize_request(activations, max_new_tokens=60, stop=["of-nothing"]),
        metadata=secret,
        timeout=60,
    )
    tree(collector, trace, ("queued", "prefill", "decode", "score"))
    model = pb.VerbalizeRequest(model="of-nothing", activations=pb.Tensor(data=b"of-nothing"))
    trace, _, metadata = parent()
    with pytest.raises(grpc.RpcError):
        server.stub.Verbalize(model, metadata=metadata, timeout=10)
    root_of(collector, trace)
    exported = b"".join(span.content for span in collector.spans)
    texts = [TEXT, *(one.explanation for one in answer.explanations)]
    pieces = {text[at : at + 10] for text in texts for at in range(len(text) - 9)}
    assert len(pieces) > 100 and b"gloss.request_id" in exported
    for piece in (*pieces, "of-nothing", "Bearer"):
        assert piece.encode() not in exported, piece
    assert activations[0, :4].tobytes() not in exported


def test_an_engine_that_is_killed(server: ServerProcess, collector: Collector) -> None:
    server.wait_idle()
    trace, _, metadata = parent()
    stream = server.stub.StreamVerbalize(
        stream_request(rows(64), "killed", max_new_tokens=200), metadata=metadata, timeout=60
    )
    next(stream)
    os.kill(server.engine_pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert fault(caught.value)[:2] == ("UNAVAILABLE", "ENGINE_RESTARTED")
    span = root_of(collector, trace)
    assert (span.attributes["gloss.reason"], span.is_error) == ("ENGINE_RESTARTED", True)
    server.wait_for(lambda: len(server.events("engine_loaded")) == 2, 60)
    trace, _, metadata = parent()
    request = verbalize_request(rows(), "after", max_new_tokens=9)
    server.stub.Verbalize(request, metadata=metadata, timeout=60)
    tree(collector, trace, ("queued", "prefill", "decode", "score"))


class Deaf:
    """A collector's address at which nobody ever answers."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


def test_collectors_that_do_not_work_change_nothing(tmp_path: Path) -> None:
    deaf, gone = Deaf(), Deaf()
    gone.close()
    with Collector() as refusing:
        refusing.refuses = grpc.StatusCode.PERMISSION_DENIED
        urls = {"refusing": refusing.url, "gone": gone.url, "deaf": deaf.url}
        servers = {
            name: ServerProcess(tmp_path / name, settings={"traces": url, "trace_ratio": 1})
            for name, url in urls.items()
        }
        try:
            for name, server in servers.items():
                _serve_without_spans(name, server.wait_ready(120))
            refused = servers["refusing"]
            refused.wait_for(lambda: _processes_that_complain(refused) == {"front", "engine"})
            for server in servers.values():
                _end_in_time(server)
        finally:
            for server in servers.values():
                server.__exit__()
            deaf.close()


def _serve_without_spans(name: str, server: ServerProcess) -> None:
    for number in range(20):
        request = verbalize_request(rows(), f"{name} {number}", max_new_tokens=5)
        server.stub.Verbalize(request, timeout=30)
    slowest = max(line["seconds"] for line in server.events("call"))
    assert slowest < EXPORT_SECONDS, "as if it had waited for an export"


def _processes_that_complain(server: ServerProcess) -> set[str]:
    return {line["process"] for line in server.events("spans_lost")}


def _end_in_time(server: ServerProcess) -> None:
    """The server ends as it always does, and all it has said are lines of its log."""
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < LIFE_SECONDS
    raw = [line for line in server.output().splitlines() if not line.startswith("{")]
    assert len(raw) == 1 and raw[0].startswith("gloss ready: "), raw
