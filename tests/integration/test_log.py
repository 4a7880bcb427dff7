"""The log of a real server: one JSON line for each call, whatever it was and however it ended, and
for what gRPC refuses by itself as much as can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.server_process import ServerProcess
from support.service_calls import fault, stream_request, verbalize_request

SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"].full_name
METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["GlossService"].methods]
TEXT = "Leo is a tailor."
FIELDS = (
    *("ts", "level", "event", "method", "request_id", "peer", "client", "priority", "code"),
    *("reason", "seconds", "queue_seconds", "first_token_seconds", "num_items", "num_tokens"),
    *("num_text_tokens", "num_target_tokens", "request_bytes", "reply_bytes", "trace_id"),
)


@pytest.fixture
def new_lines(embedded: ServerProcess) -> Iterator[Callable[[int], list[dict[str, Any]]]]:
    """The lines since the test began, once there are so many; at its end there are no more."""
    before = len(embedded.lines())
    expected = 0

    def read(count: int) -> list[dict[str, Any]]:
        nonlocal expected
        expected = count
        embedded.wait_for(lambda: len(embedded.lines()) >= before + count)
        return embedded.lines()[before:]

    yield read
    embedded.stats()
    # Lines stand in the order in which calls ended: another would be before this one.
    embedded.wait_for(lambda: len(embedded.lines()) > before + expected)
    assert len(embedded.lines()) == before + expected + 1, embedded.lines()[before:]
    assert embedded.lines()[-1]["method"] == "GetStats"


def requests(rows: np.ndarray) -> dict[str, Any]:
    """A call of every method."""
    text = pb.TextInput(text=TEXT)
    options = pb.GenerationOptions(max_new_tokens=4, seed=1)
    batch = pb.PRIORITY_BATCH
    verbalize = verbalize_request(rows, "log-1", max_new_tokens=4, seed=1)
    verbalize.priority = batch
    return {
        "Verbalize": verbalize,
        "StreamVerbalize": stream_request(rows, "log-2", max_new_tokens=4, seed=1),
        "Explain": pb.ExplainRequest(request_id="log-3", input=text, options=options),
        "Watch": pb.WatchRequest(
            request_id="log-4",
            prompt=text,
            options=options,
            target_options=pb.GenerationOptions(max_new_tokens=3),
        ),
        "Capture": pb.CaptureRequest(inputs=[pb.CaptureInput(input=text)]),
        "Reconstruct": pb.ReconstructRequest(texts=[TEXT]),
        "Score": pb.ScoreRequest(texts=[TEXT], activations=verbalize_request(rows[:1]).activations),
        "GetModelInfo": pb.GetModelInfoRequest(),
        "GetStats": pb.GetStatsRequest(),
    }


def test_a_line_for_a_call_of_every_method(
    embedded: ServerProcess, story_rows: np.ndarray, new_lines: Any
) -> None:
    made = requests(story_rows[:2])
    assert made.keys() == set(METHODS)
    sizes = {}
    for method, request in made.items():
        answer = getattr(embedded.stub, method)(request, timeout=30)
        messages = [answer] if hasattr(answer, "DESCRIPTOR") else [*answer]
        sizes[method] = request.ByteSize(), sum(message.ByteSize() for message in messages)
    lines = {line["method"]: line for line in new_lines(len(made))}
    assert lines.keys() == made.keys()
    for method, line in lines.items():
        assert tuple(line) == FIELDS and (line["event"], line["code"]) == ("call", "OK")
        assert (line["request_bytes"], line["reply_bytes"]) == sizes[method]
        assert line["trace_id"] is None and line["client"] in line["peer"]
    priorities = {method: line["priority"] for method, line in lines.items() if line["priority"]}
    assert priorities == {
        "Verbalize": "batch",
        **dict.fromkeys(("StreamVerbalize", "Explain", "Watch"), "interactive"),
    }
    assert lines["Watch"]["num_target_tokens"] == 3 and lines["Score"]["num_items"] == 1


def failing(embedded: ServerProcess, rows: np.ndarray) -> dict[str, Callable[[], object]]:
    """Calls that fail, by the reason that is logged."""
    channel = embedded.channel
    slow = pb.WatchRequest(prompt=pb.TextInput(text=TEXT), tokens_per_second=1.0)
    return {
        "MALFORMED_REQUEST": lambda: channel.unary_unary(f"/{SERVICE}/Score")(b"\xff", timeout=10),
        "DIMENSION_MISMATCH": lambda: embedded.stub.Verbalize(verbalize_request(rows[:, :3])),
        "DEADLINE_EXCEEDED": lambda: [*embedded.stub.Watch(slow, timeout=0.5)],
        "UNKNOWN_METHOD": lambda: channel.unary_unary(f"/{SERVICE}/None")(b"", timeout=10),
    }


def test_a_line_for_a_call_that_fails(
    embedded: ServerProcess, story_rows: np.ndarray, new_lines: Any
) -> None:
    calls = failing(embedded, story_rows[:64])
    for call in calls.values():
        with pytest.raises(grpc.RpcError):
            call()
    stream = embedded.stub.StreamVerbalize(stream_request(story_rows[:64], max_new_tokens=200))
    next(stream)
    stream.cancel()
    lines = {line["reason"]: line for line in new_lines(len(calls) + 1)}
    assert lines.keys() == {*calls, "CANCELLED"}
    assert all(tuple(line) == FIELDS for line in lines.values())
    assert lines["UNKNOWN_METHOD"]["method"] == f"/{SERVICE}/None"


@pytest.mark.parametrize(
    "path", [f"/{SERVICE}/verbalize", "/gloss_api.v2.New/None", "/a.B/c\u007f", "/a.B/" + 999 * "c"]
)
def test_unknown_methods_are_refused_logged_and_counted(
    embedded: ServerProcess, new_lines: Any, path: str
) -> None:
    before = metric(embedded, 'gloss_calls_total{code="UNIMPLEMENTED",method="OTHER"}')
    for call in (embedded.channel.unary_unary(path), embedded.channel.stream_unary(path)):
        # Of a stream of requests not even the first is waited for.
        content: Any = b"x" if isinstance(call, grpc.UnaryUnaryMultiCallable) else iter([])
        with pytest.raises(grpc.RpcError) as caught:
            call(content, timeout=10)
        assert fault(caught.value)[:2] == ("UNIMPLEMENTED", "UNKNOWN_METHOD")
    lines = new_lines(2)
    shown = path if len(path) <= 256 else f"{path[:256]}..."
    assert {(line["code"], line["method"], line["request_bytes"]) for line in lines} == {
        ("UNIMPLEMENTED", shown, 0)
    }
    after = metric(embedded, 'gloss_calls_total{code="UNIMPLEMENTED",method="OTHER"}')
    assert after == before + 2


def test_what_grpc_refuses_is_noticed(embedded: ServerProcess, new_lines: Any) -> None:
    name = 'gloss_unread_calls_total{method="Verbalize"}'
    before = metric(embedded, name)
    large = bytes(33 << 20)
    for content, metadata in ((large, []), (b"", [("x-large", "v" * 20_000)])):
        call = embedded.channel.unary_unary(f"/{SERVICE}/Verbalize")
        with pytest.raises(grpc.RpcError) as caught:
            call(content, metadata=metadata, timeout=30)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    lines = new_lines(2)
    assert {(line["event"], line["method"]) for line in lines} == {("unread_call", "Verbalize")}
    assert metric(embedded, name) == before + 2


def metric(server: ServerProcess, series: str) -> float:
    with urlopen(f"http://{server.ports['metrics']}/metrics") as response:
        lines = response.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{series} ")]
    return float(line.rsplit(" ", 1)[1])
