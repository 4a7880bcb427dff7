"""Capturing activations of texts in any number: pieces give what one call gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client import (
    ActivationRows,
    InconsistentReply,
    InvalidRequest,
    ItemError,
    ServerError,
    TextFailure,
    TokenPlace,
)
from support.echo_server import EchoServer
from support.echo_texts import row_of

FAILURE = ItemError(
    code="INVALID_ARGUMENT", reason="TEXT_TOO_LONG", message="an item: TEXT_TOO_LONG"
)
TEXTS = ["x" * (index % 7) + chr(97 + index % 26) for index in range(150)]


def same(one: Any, other: Any) -> None:
    """Two results, or two events."""
    np.testing.assert_array_equal(one.activations, other.activations)
    for name in ("input_index", "doc_ids", "places", "is_special"):
        assert getattr(one, name) == getattr(other, name)


def test_texts_become_rows(client: Any, server: EchoServer) -> None:
    result = client.capture(["ab", [7, 1], [{"role": "u", "content": ""}]])
    assert server.service.methods() == ["Capture"]
    ids = [[1, 97, 98], [7, 1], [ord(character) for character in "u: \n"]]
    expected = [row_of(one, i, 8) for tokens in ids for i, one in enumerate(tokens)]
    np.testing.assert_array_equal(result.activations, expected)
    assert result.activations.dtype == np.float32
    assert result.input_index == (0, 0, 0, 1, 1, 2, 2, 2, 2)
    assert result.doc_ids == ("0", "0", "0", "1", "1", "2", "2", "2", "2")
    assert result.is_special == (True, False, False, False, True, *[False] * 4)
    assert result.places[1] == TokenPlace(
        position=1, token_id=97, token="a", norm=1.5, layer_index=2
    )
    assert (result.failures, result.fingerprint) == ({}, "echo-0")


@pytest.mark.parametrize("wire_dtype", ["float32", "bfloat16", "float16"])
def test_every_type_comes_back_as_float32(client: Any, server: EchoServer, wire_dtype: str) -> None:
    got = client.capture(["abcdefghijkl"], wire_dtype=wire_dtype).activations
    assert got.dtype == np.float32
    tokens = [1, *map(ord, "abcdefghijkl")]
    np.testing.assert_array_equal(got, [row_of(one, i, 8) for i, one in enumerate(tokens)])
    (call,) = server.service.received
    assert pb.TensorDtype.Name(call.request.dtype) == f"TENSOR_DTYPE_{wire_dtype.upper()}"


def test_everything_is_sent(client: Any, server: EchoServer) -> None:
    result = client.capture(
        ["abc", "d"], positions="last", layer_index=np.int64(0), doc_ids=("x", ""), model="echo"
    )
    assert [place.position for place in result.places] == [3, 1]
    assert {place.layer_index for place in result.places} == {0}
    assert result.doc_ids == ("x", "")
    client.capture(["abc"])
    first, second = (call.request for call in server.service.received)
    assert (first.model, list(first.positions.list.positions)) == ("echo", [-1])
    assert first.HasField("layer_index")
    assert not second.HasField("layer_index")
    assert not second.HasField("positions")


def test_a_text_fails_alone(client: Any) -> None:
    result = client.capture(["a", "fail", "b", "fail"], positions=0)
    assert result.failures == {1: FAILURE, 3: FAILURE}
    assert result.input_index == (0, 2)
    nothing = client.capture(["fail"])
    assert nothing.activations.shape == (0, 0)
    assert (nothing.places, nothing.failures) == ((), {0: FAILURE})


def test_a_stream_brings_rows_as_they_come(client: Any) -> None:
    """Five a message; a text's rows are together, and in order."""
    stream = client.stream_capture(["abcdefg", "fail", "h"])
    events = list(stream)
    kinds = [len(e.places) if isinstance(e, ActivationRows) else e for e in events]
    assert kinds == [5, 3, TextFailure(input_index=1, error=FAILURE), 2]
    assert (stream.summary.num_activations, stream.summary.failures) == (10, {1: FAILURE})
    assert stream.fingerprint == "echo-0"
    result = client.capture(["abcdefg", "fail", "h"])
    np.testing.assert_array_equal(
        np.concatenate([e.activations for e in events if isinstance(e, ActivationRows)]),
        result.activations,
    )


@pytest.mark.parametrize("doc_ids", [None, [f"doc {index}" for index in range(150)]])
def test_pieces_give_what_one_call_gives(
    client: Any, server: EchoServer, doc_ids: list[str] | None
) -> None:
    """150 texts are over what goes out without asking; the limits allow them whole, then do not."""
    texts = [*TEXTS]
    texts[77] = texts[149] = "fail"
    whole = client.capture(texts, doc_ids=doc_ids)
    assert server.service.methods() == ["GetModelInfo", "Capture"]
    assert list(whole.failures) == [77, 149]
    assert whole.doc_ids == tuple(
        (doc_ids or list(map(str, range(150))))[i] for i in whole.input_index
    )
    server.service.limits.max_items = 40
    client.model_info()
    server.service.received.clear()
    server.service.step_seconds = 0.001
    cut = client.capture(texts, doc_ids=doc_ids)
    same(cut, whole)
    assert cut.failures == whole.failures
    sizes = [len(call.request.inputs) for call in server.service.received]
    assert sorted(sizes) == [30, 40, 40, 40]
    assert 1 < server.service.most_in_flight <= 4


def test_a_refused_size_is_halved_until_it_is_taken(client: Any, server: EchoServer) -> None:
    expected = client.capture(TEXTS[:33])
    server.service.limits.max_items = 9
    server.service.received.clear()
    same(client.capture(TEXTS[:33]), expected)
    # 33 = 16 + 17; 16 = 8 + 8; 17 = 8 + 9.
    assert server.service.methods() == ["Capture"] * 7


def test_one_text_over_every_limit_is_the_servers_to_refuse(
    client: Any, server: EchoServer
) -> None:
    server.service.limits.max_items = 0
    with pytest.raises(InvalidRequest, match="BATCH_TOO_LARGE"):
        client.capture(["a"])


def test_two_checkpoints_in_one_result_are_an_error(client: Any, server: EchoServer) -> None:
    server.service.limits.max_items = 40
    whole = server.service._messages

    def replaced(method: str, request: Any, context: Any) -> Iterator[Any]:
        first, *rest = whole(method, request, context)
        first.fingerprint = f"echo-{int(request.inputs[0].doc_id) % 2}"
        yield from (first, *rest)

    server.service._messages = replaced  # type: ignore[method-assign]
    server.service.limits.max_items = 35
    with pytest.raises(InconsistentReply, match="echo-0 and echo-1"):
        client.capture(TEXTS)


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (lambda made: made.pop(), "without text 1"),
        (lambda made: made.pop(0), "without its fingerprint"),
        (lambda made: made[1].rows.pop(), r"got activations \(2, 8\) for 1 entries"),
        (lambda made: made[1].activations.shape.pop(), "do not fit together"),
    ],
)
def test_a_stream_with_something_missing_is_an_error(
    client: Any, server: EchoServer, drop: Any, said: str
) -> None:
    whole = server.service._messages

    def changed(*args: Any) -> Iterator[Any]:
        made = list(whole(*args))
        drop(made)
        yield from made

    server.service._messages = changed  # type: ignore[method-assign]
    with pytest.raises(ServerError, match=said):
        client.capture(["a", "b"])
