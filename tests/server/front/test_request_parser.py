"""Requests as bytes: what is refused before it is parsed, and what honest calls may bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call_error import CallError
from gloss_server.front.request_parser import MAX_FIELDS, MAX_PACKED_BYTES, RequestParser


class _Counted:
    """A message class that says how often it was parsed."""

    def __init__(self, message_class: Any) -> None:
        self.DESCRIPTOR, self._class, self.num_parsed = message_class.DESCRIPTOR, message_class, 0

    def FromString(self, content: bytes) -> Any:
        self.num_parsed += 1
        return self._class.FromString(content)


def _empty(message_class: Any, name: str, count: int) -> bytes:
    """So many empty fields."""
    return bytes([message_class.DESCRIPTOR.fields_by_name[name].number << 3 | 2, 0]) * count


def _within(message_class: Any, name: str, content: bytes) -> bytes:
    """A field that holds these bytes."""
    number = message_class.DESCRIPTOR.fields_by_name[name].number
    size, length = b"", len(content)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def _stops(count: int) -> bytes:
    return _within(pb.VerbalizeRequest, "options", _empty(pb.GenerationOptions, "stop", count))


def _ids(num_bytes: int) -> bytes:
    ids = _within(pb.TokenIds, "ids", b"\1" * num_bytes)
    text = _within(pb.TextInput, "token_ids", ids)
    return _within(pb.ExplainRequest, "input", text)


@pytest.mark.parametrize(
    ("message_class", "content"),
    [
        (pb.VerbalizeRequest, _empty(pb.VerbalizeRequest, "items", MAX_FIELDS + 1)),
        (pb.ScoreRequest, _empty(pb.ScoreRequest, "texts", MAX_FIELDS + 1)),
        (pb.VerbalizeRequest, _stops(MAX_FIELDS)),
        (pb.VerbalizeRequest, b"\x78\0" * (MAX_FIELDS + 1)),
        (pb.VerbalizeRequest, b"\x7b\x7c" * (MAX_FIELDS + 1)),
        (pb.VerbalizeRequest, b"\x79" + b"\x79" * 9 * MAX_FIELDS),
        (pb.ExplainRequest, _ids(MAX_PACKED_BYTES + 1)),
    ],
    ids=["messages", "texts", "nested", "unknown", "groups", "fixed", "numbers"],
)
def test_what_would_take_long_to_parse_is_refused_unparsed(
    message_class: Any, content: bytes
) -> None:
    counted = _Counted(message_class)
    with pytest.raises(CallError) as caught:
        RequestParser(counted).parse(content)
    assert caught.value.reason == "BATCH_TOO_LARGE" and counted.num_parsed == 0


@pytest.mark.parametrize("build", [_stops, lambda n: _empty(pb.VerbalizeRequest, "items", n)])
def test_what_is_under_the_bound_is_parsed(build: Callable[[int], bytes]) -> None:
    content = build(MAX_FIELDS - 2)
    request = RequestParser(pb.VerbalizeRequest).parse(content)
    assert request == pb.VerbalizeRequest.FromString(content)


def test_the_largest_honest_requests_are_parsed() -> None:
    verbalize = pb.VerbalizeRequest(request_id="a", allow_layer_mismatch=True)
    verbalize.activations.CopyFrom(pb.Tensor(dtype=1, shape=[1024, 64], data=b"\xff" * 2**18))
    verbalize.options.seed, verbalize.options.temperature = 2**64 - 1, 0.5
    capture, chat = pb.CaptureRequest(), pb.CaptureRequest()
    for index in range(1024):
        verbalize.items.add(item_key=2**63, position=2**20, token_id=2**17, layer_index=-1)
        capture.inputs.add(doc_id="é").input.token_ids.ids.extend([2**17] * 1024)
        messages = chat.inputs.add(doc_id=str(index)).input.chat.messages
        for _ in range(16):
            messages.add(role="user", content="a")
    for request in (verbalize, capture, chat):
        parser = RequestParser(type(request))
        assert parser.parse(request.SerializeToString()) == request


@pytest.mark.parametrize(
    "content",
    [
        *(b"\xff" * 2**17, b"\x08" + b"\xff" * 2**17, b"\x22" + b"\xff" * 2**17),
        *(b"\x7f" * 2**17, _empty(pb.VerbalizeRequest, "items", 2**15 + 1)[:-1]),
    ],
    ids=["tag", "value", "length", "kind", "cut"],
)
def test_bytes_that_are_no_message_are_malformed(content: bytes) -> None:
    with pytest.raises(CallError) as caught:
        RequestParser(pb.VerbalizeRequest).parse(content)
    assert caught.value.reason == "MALFORMED_REQUEST"
    assert pb.VerbalizeRequest.DESCRIPTOR.full_name in str(caught.value)
