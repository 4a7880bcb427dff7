"""Every bad input of the contract's fault table: its code, its reason, its field; nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.checkpoints import Pair
from support.invariants import checked
from support.server_process import ServerProcess
from support.service_calls import fault, stream_request, tensor, verbalize_request

ROW = np.ones((1, 128), np.float32)
Edit = Callable[[pb.VerbalizeRequest], None]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(embedded: ServerProcess) -> Iterator[None]:
    """After all of them: what is refused runs nothing, and every call is counted all the same."""
    with checked(embedded):
        yield


def _shape(*shape: int) -> Edit:
    def edit(request: pb.VerbalizeRequest) -> None:
        request.activations.shape[:] = shape

    return edit


def _set(path: str, value: Any) -> Edit:
    def edit(request: pb.VerbalizeRequest) -> None:
        *parents, name = path.split(".")
        holder: Any = request
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, name, value)

    return edit


def _rows(*shape: int) -> Edit:
    def edit(request: pb.VerbalizeRequest) -> None:
        request.activations.CopyFrom(tensor(np.ones(shape, np.float32)))

    return edit


def _items(*items: dict[str, int]) -> Edit:
    def edit(request: pb.VerbalizeRequest) -> None:
        request.items.extend(pb.ActivationItem(**item) for item in items)

    return edit


def _big(request: pb.VerbalizeRequest) -> None:
    request.activations.CopyFrom(tensor(np.ones((1024, 128), np.float32)))
    request.options.num_samples = 4


INVALID = "INVALID_ARGUMENT"
REFUSALS: dict[str, tuple[Edit, str, str, str]] = {
    "no activations": (
        lambda request: request.ClearField("activations"),
        INVALID,
        "MISSING_FIELD",
        "activations",
    ),
    "width": (_rows(2, 127), INVALID, "DIMENSION_MISMATCH", "activations.shape"),
    "one dimension": (_rows(128), INVALID, "DIMENSION_MISMATCH", "activations.shape"),
    "three": (_rows(1, 1, 128), INVALID, "DIMENSION_MISMATCH", "activations.shape"),
    "negative": (_shape(-1, 128), INVALID, "DIMENSION_MISMATCH", "activations.shape"),
    "dimensions": (
        _shape(*([1] * 200_000)),
        INVALID,
        "DIMENSION_MISMATCH",
        "activations.shape",
    ),
    "no rows": (_rows(0, 128), INVALID, "EMPTY_BATCH", "activations.shape"),
    "no shape": (_shape(), INVALID, "EMPTY_BATCH", "activations.shape"),
    "huge shape": (_shape(2**62, 128), INVALID, "BATCH_TOO_LARGE", "activations.shape"),
    "too many": (_rows(1025, 128), INVALID, "BATCH_TOO_LARGE", "activations.shape"),
    "bytes": (
        _set("activations.data", b"\0" * 511),
        INVALID,
        "DIMENSION_MISMATCH",
        "activations.data",
    ),
    "no dtype": (
        _set("activations.dtype", 0),
        INVALID,
        "UNSUPPORTED_DTYPE",
        "activations.dtype",
    ),
    "dtype": (_set("activations.dtype", 9), INVALID, "UNSUPPORTED_DTYPE", "activations.dtype"),
    "items": (_items({}, {}), INVALID, "LENGTH_MISMATCH", "items"),
    "position": (_items({"position": -1}), INVALID, "INVALID_FIELD", "items[0].position"),
    "token": (_items({"token_id": -7}), INVALID, "INVALID_FIELD", "items[0].token_id"),
    "layer": (_items({"layer_index": 3}), INVALID, "LAYER_MISMATCH", "items[0].layer_index"),
    "no layer": (
        _items({"layer_index": 4}),
        "OUT_OF_RANGE",
        "LAYER_OUT_OF_RANGE",
        "items[0].layer_index",
    ),
    "layer below": (
        _items({"layer_index": -1}),
        "OUT_OF_RANGE",
        "LAYER_OUT_OF_RANGE",
        "items[0].layer_index",
    ),
    "model": (_set("model", "gpt"), "NOT_FOUND", "UNKNOWN_MODEL", "model"),
    "id": (_set("request_id", "x" * 129), INVALID, "INVALID_FIELD", "request_id"),
    "id's line": (_set("request_id", "a\nb"), INVALID, "INVALID_FIELD", "request_id"),
    "no samples": (
        _set("options.num_samples", 0),
        INVALID,
        "INVALID_SAMPLES",
        "options.num_samples",
    ),
    "samples": (_set("options.num_samples", 65), INVALID, "INVALID_SAMPLES", "options.num_samples"),
    "heat": (_set("options.temperature", -1.0), INVALID, "INVALID_SAMPLING", "options.temperature"),
    "nan": (
        _set("options.temperature", float("nan")),
        INVALID,
        "INVALID_SAMPLING",
        "options.temperature",
    ),
    "top_k": (_set("options.top_k", -1), INVALID, "INVALID_SAMPLING", "options.top_k"),
    "top_p": (_set("options.top_p", 0.0), INVALID, "INVALID_SAMPLING", "options.top_p"),
    "min_p": (_set("options.min_p", 1.0), INVALID, "INVALID_SAMPLING", "options.min_p"),
    "penalty": (
        _set("options.repetition_penalty", 0.0),
        INVALID,
        "INVALID_SAMPLING",
        "options.repetition_penalty",
    ),
    "no tokens": (
        _set("options.max_new_tokens", 0),
        INVALID,
        "INVALID_SAMPLING",
        "options.max_new_tokens",
    ),
    "tokens": (
        _set("options.max_new_tokens", 201),
        INVALID,
        "TOO_MANY_TOKENS",
        "options.max_new_tokens",
    ),
    "stops": (
        lambda request: request.options.stop.extend(["x"] * 17),
        INVALID,
        "INVALID_SAMPLING",
        "options.stop",
    ),
    "empty stop": (
        lambda request: request.options.stop.append(""),
        INVALID,
        "INVALID_SAMPLING",
        "options.stop",
    ),
    "reply": (_big, INVALID, "REPLY_TOO_LARGE", "activations"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_verbalize(embedded: ServerProcess, name: str) -> None:
    edit, code, reason, field = REFUSALS[name]
    request = verbalize_request(ROW)
    edit(request)
    before = embedded.stats().generated_tokens
    with pytest.raises(grpc.RpcError) as caught:
        embedded.stub.Verbalize(request, timeout=10)
    assert fault(caught.value) == (code, reason, field)
    message = caught.value.details()
    assert message.startswith(field), "the message does not begin with the field"
    assert "expected" in message
    if name == "reply":
        return
    with pytest.raises(grpc.RpcError) as caught:
        list(embedded.stub.StreamVerbalize(pb.StreamVerbalizeRequest(request=request), timeout=10))
    assert fault(caught.value) == (code, reason, f"request.{field}")
    assert embedded.stats().generated_tokens == before


def test_a_stream_may_be_larger_than_a_reply(embedded: ServerProcess) -> None:
    request = stream_request(np.ones((600, 128)), num_samples=2, max_new_tokens=200)
    call = embedded.stub.StreamVerbalize(request, timeout=30)
    assert next(call).HasField("start")
    call.cancel()
    embedded.wait_idle()


TEXTS = ["a"]
METHODS = (
    *("Verbalize", "StreamVerbalize", "Explain", "Watch", "Capture"),
    *("Reconstruct", "Score", "GetStats"),
)
TEXT_REFUSALS: dict[str, tuple[str, Any, str, str, str | None]] = {
    "none": ("Reconstruct", pb.ReconstructRequest(), INVALID, "EMPTY_BATCH", "texts"),
    "many": (
        "Reconstruct",
        pb.ReconstructRequest(texts=TEXTS * 1025),
        INVALID,
        "BATCH_TOO_LARGE",
        "texts",
    ),
    "long": (
        "Reconstruct",
        pb.ReconstructRequest(texts=["a", "b" * 16_385]),
        INVALID,
        "TEXT_TOO_LONG",
        "texts[1]",
    ),
    "dtype": (
        "Reconstruct",
        pb.ReconstructRequest(texts=TEXTS, dtype=8),  # type: ignore[arg-type]
        INVALID,
        "UNSUPPORTED_DTYPE",
        "dtype",
    ),
    "model": (
        "Reconstruct",
        pb.ReconstructRequest(texts=TEXTS, model="other"),
        "NOT_FOUND",
        "UNKNOWN_MODEL",
        "model",
    ),
    "no rows": ("Score", pb.ScoreRequest(texts=TEXTS), INVALID, "MISSING_FIELD", "activations"),
    "lengths": (
        "Score",
        pb.ScoreRequest(texts=TEXTS * 2, activations=tensor(ROW)),
        INVALID,
        "LENGTH_MISMATCH",
        "texts",
    ),
    "width": (
        "Score",
        pb.ScoreRequest(texts=TEXTS, activations=tensor(ROW[:, 1:])),
        INVALID,
        "DIMENSION_MISMATCH",
        "activations.shape",
    ),
}


@pytest.mark.parametrize("name", TEXT_REFUSALS)
def test_texts(embedded: ServerProcess, name: str) -> None:
    method, request, code, reason, field = TEXT_REFUSALS[name]
    with pytest.raises(grpc.RpcError) as caught:
        getattr(embedded.stub, method)(request, timeout=10)
    assert fault(caught.value) == (code, reason, field)


@pytest.mark.parametrize("method", ["Verbalize", "Reconstruct", "Score"])
def test_without_an_ar(endless: ServerProcess, pairs: dict[str, Pair], method: str) -> None:
    rows = np.ones((1, 72), np.float32)
    request: Any = {
        "Verbalize": verbalize_request(rows, score=True),
        "Reconstruct": pb.ReconstructRequest(texts=TEXTS),
        "Score": pb.ScoreRequest(texts=TEXTS, activations=tensor(rows)),
    }[method]
    with pytest.raises(grpc.RpcError) as caught:
        getattr(endless.stub, method)(request, timeout=10)
    field = "options.score" if method == "Verbalize" else None
    assert fault(caught.value) == ("FAILED_PRECONDITION", "NO_RECONSTRUCTOR", field)


@pytest.mark.parametrize("method", ["Explain", "Watch", "Capture"])
def test_without_a_target(endless: ServerProcess, method: str) -> None:
    """Also where the request makes no sense otherwise: there is nobody to judge it."""
    with pytest.raises(grpc.RpcError) as caught:
        list(getattr(endless.stub, method)(getattr(pb, f"{method}Request")(), timeout=10))
    assert fault(caught.value) == ("FAILED_PRECONDITION", "NO_TARGET", None)


NO_MESSAGES = [
    *((method, content) for method in METHODS for content in (b"\xff\xff\xff", b"\x0a\x7f")),
    # Text that is no UTF-8.
    ("Verbalize", b"\x12\x02\xc3\x28"),
    ("Score", b"\x12\x02\xc3\x28"),
]


@pytest.mark.parametrize(("method", "content"), NO_MESSAGES)
def test_bytes_that_are_no_message(embedded: ServerProcess, method: str, content: bytes) -> None:
    call = embedded.channel.unary_unary(f"/gloss_api.v1.GlossService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(content, timeout=10)
    assert fault(caught.value) == (INVALID, "MALFORMED_REQUEST", None)
    assert "Error" not in caught.value.details() and "Traceback" not in caught.value.details()


def test_oversized_messages_and_metadata(embedded: ServerProcess) -> None:
    """The library's own answer; the connection lives."""
    with embedded.open_channel() as channel:
        call = channel.unary_unary("/gloss_api.v1.GlossService/Verbalize")
        stats = channel.unary_unary("/gloss_api.v1.GlossService/GetStats")
        assert stats(b"", timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\0" * (33 << 20), timeout=30)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            stats(b"", metadata=[("x-large", "y" * 100_000)], timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stats(b"", timeout=10)


LIBRARY_METHODS = (
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@pytest.mark.parametrize("method", LIBRARY_METHODS)
def test_bytes_that_are_no_message_of_a_library(embedded: ServerProcess, method: str) -> None:
    call = embedded.channel.stream_stream(f"/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter([b"\xff\xff\xff"]), timeout=10))
    assert fault(caught.value) == (INVALID, "MALFORMED_REQUEST", None)
