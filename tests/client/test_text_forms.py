"""Texts and positions as callers write them, in the contract's words; what has none is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from gloss_client import InvalidRequest
from gloss_client.positions import position_selection
from gloss_client.text_input import text_input
from support.echo_server import EchoServer

CHAT = [{"role": "system", "content": ""}, {"role": "user", "content": "hi \U0001f600"}]


def sliced(**ends: int) -> dict[str, Any]:
    return {"slice": ends}


def listed(*positions: int) -> dict[str, Any]:
    return {"list": {"positions": list(positions)} if positions else {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\0b", {"text": "a\0b"}),
        ("", {"text": ""}),
        ([0, 2**31 - 1], {"tokenIds": {"ids": [0, 2**31 - 1]}}),
        ((5,), {"tokenIds": {"ids": [5]}}),
        (range(3), {"tokenIds": {"ids": [0, 1, 2]}}),
        ([np.int64(7), np.uint8(8)], {"tokenIds": {"ids": [7, 8]}}),
        (np.array([3, 4], np.int32), {"tokenIds": {"ids": [3, 4]}}),
        (CHAT, {"chat": {"messages": [{"role": "system"}, CHAT[1]]}}),
        (tuple(CHAT[1:]), {"chat": {"messages": CHAT[1:]}}),
    ],
)
def test_a_text_has_three_forms(text: Any, message: dict[str, Any]) -> None:
    made = text_input(text, "text")
    assert json_format.MessageToDict(made) == message
    assert made.WhichOneof("input") is not None


@pytest.mark.parametrize(
    ("text", "reason", "field", "said"),
    [
        ("\ud800", "INVALID_TEXT", "text", "lone surrogate"),
        (None, "INVALID_TEXT", "text", "got NoneType, expected a string"),
        (b"ab", "INVALID_TEXT", "text", "got bytes"),
        (5, "INVALID_TEXT", "text", "got int"),
        ({"role": "user", "content": "x"}, "INVALID_TEXT", "text", "got dict"),
        (np.array(5), "INVALID_TEXT", "text", "got ndarray"),
        ([], "EMPTY_TEXT", "text", "got nothing"),
        ([3, -1], "INVALID_TOKEN_IDS", "text[1]", "got -1, expected a token id"),
        ([3, 2**31], "INVALID_TOKEN_IDS", "text[1]", "got 2147483648"),
        ([3, 1.0], "INVALID_TOKEN_IDS", "text[1]", "expected a whole number"),
        ([True], "INVALID_TOKEN_IDS", "text[0]", "got True, expected a whole number"),
        (["a", "b"], "INVALID_TOKEN_IDS", "text[0]", "got 'a'"),
        (np.eye(2, dtype=np.int64), "INVALID_TOKEN_IDS", "text[0]", "expected a whole number"),
        ([1, CHAT[1]], "INVALID_TOKEN_IDS", "text[1]", "expected a whole number"),
        ([CHAT[1], 1], "INVALID_CHAT", "text[1]", "got int, expected a message"),
        ([{"role": "user"}], "INVALID_CHAT", "text[0]", "got ['role']"),
        ([{**CHAT[1], "name": "x"}], "INVALID_CHAT", "text[0]", "'name'"),
        ([{"role": "user", "content": ["x"]}], "INVALID_CHAT", "text[0].content", "got list"),
        ([{"role": "\udfff", "content": "x"}], "INVALID_CHAT", "text[0].role", "surrogate"),
    ],
)
def test_what_is_no_text_is_refused(text: Any, reason: str, field: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        text_input(text, "text")
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert said in caught.value.message
    assert caught.value.message.startswith(f"{field}: got ")


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ("all", {}),
        ("last", listed(-1)),
        ("2:", sliced(start=2)),
        (":-1", sliced(stop=-1)),
        ("::2", sliced(step=2)),
        ("-5:20:3", sliced(start=-5, stop=20, step=3)),
        (":", {"slice": {}}),
        ("7", listed(7)),
        ("0, -1,5", listed(0, -1, 5)),
        (0, listed(0)),
        (-3, listed(-3)),
        (np.int64(4), listed(4)),
        (slice(None), {"slice": {}}),
        (slice(1, None, 2), sliced(start=1, step=2)),
        (slice(np.int64(0), 3), sliced(start=0, stop=3)),
        ([4, -1], listed(4, -1)),
        ((), listed()),
        (range(2, 6, 2), listed(2, 4)),
        (np.array([1, 2]), listed(1, 2)),
        # The server says what is wrong with it.
        ("::0", sliced(step=0)),
    ],
)
def test_positions_have_many_forms(positions: Any, message: dict[str, Any]) -> None:
    assert json_format.MessageToDict(position_selection(positions, "positions")) == message


@pytest.mark.parametrize(
    ("positions", "field"),
    [
        ("first", "positions"),
        ("", "positions"),
        ("1:2:3:4", "positions"),
        ("1,x", "positions"),
        ("1:x", "positions"),
        ("1.5", "positions"),
        (f"{2**31}", "positions[0]"),
        (f":{2**31}", "positions.stop"),
        (2**31, "positions[0]"),
        (1.0, "positions[0]"),
        (True, "positions[0]"),
        (None, "positions[0]"),
        (b"all", "positions[0]"),
        ([1, "2"], "positions[1]"),
        ([1, -(2**31) - 1], "positions[1]"),
        (slice("a"), "positions.stop"),
        (slice(True, 4), "positions.start"),
        (slice(0, 4, 1.5), "positions.step"),
        (np.ones((2, 2), np.int64), "positions[0]"),
    ],
)
def test_what_selects_no_positions_is_refused(positions: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        position_selection(positions, "positions")
    assert caught.value.field == field
    assert caught.value.message.startswith(f"{field}: got ")
    assert caught.value.reason == "INVALID_POSITIONS"


@pytest.mark.parametrize(
    ("method", "text", "options", "field"),
    [
        ("explain", "\ud800", {}, "text"),
        ("explain", [-1], {}, "text[0]"),
        ("explain", "a", {"positions": 1.5}, "positions[0]"),
        ("explain", "a", {"seed": -1}, "seed"),
        ("explain", "a", {"request_id": "\ud800"}, "request_id"),
        ("explain", "a", {"stop": "abc"}, "stop"),
        ("explain", "a", {"timeout": 0}, "timeout"),
        ("stream_explain", "a", {"model": 5}, "model"),
        ("watch", [], {}, "prompt"),
        ("watch", "a", {"prompt_positions": "none"}, "prompt_positions"),
        ("watch", "a", {"every": 2**31}, "every"),
        ("watch", "a", {"max_pending": 1.5}, "max_pending"),
        ("watch", "a", {"tokens_per_second": "fast"}, "tokens_per_second"),
        ("watch", "a", {"target": {"top_k": 0.5}}, "target.top_k"),
        ("watch", "a", {"target": {"stop": "abc"}}, "target.stop"),
        ("watch", "a", {"target": {"seed": -1}}, "target.seed"),
        ("watch", "a", {"timeout": -1}, "timeout"),
        ("capture", "abc", {}, "texts"),
        ("capture", [], {}, "texts"),
        ("capture", [1, 2], {}, "texts[0]"),
        ("capture", CHAT, {}, "texts[0]"),
        ("capture", ["a", "\ud800"], {}, "texts[1]"),
        ("capture", ["a", [1, -1]], {}, "texts[1][1]"),
        ("capture", ["a", "b"], {"doc_ids": ["x"]}, "doc_ids"),
        ("capture", ["a", "b"], {"doc_ids": "xy"}, "doc_ids"),
        ("capture", ["a", "b"], {"doc_ids": ["x", 2]}, "doc_ids[1]"),
        ("capture", ["a"], {"layer_index": 1.5}, "layer_index"),
        ("capture", ["a"], {"positions": "x"}, "positions"),
        ("stream_capture", ["a"], {"wire_dtype": "float64"}, "wire_dtype"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(
    client: Any, server: EchoServer, method: str, text: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        getattr(client, method)(text, **options)
    assert caught.value.field == field
    assert server.service.received == []


@pytest.mark.parametrize(
    ("method", "text", "options", "said"),
    [
        ("explain", "a", {"temprature": 0}, "unexpected keyword argument 'temprature'"),
        ("explain", "a", {"item_keys": [1]}, "'item_keys'"),
        ("stream_explain", "a", {"every": 2}, "'every'"),
        ("watch", "a", {"positions": "all"}, "'positions'"),
        ("watch", "a", {"target": {"num_samples": 2}}, "target: unexpected.*'num_samples'"),
        ("capture", ["a"], {"seed": 1}, "'seed'"),
        ("stream_capture", ["a"], {"request_id": "x"}, "'request_id'"),
    ],
)
def test_an_unknown_argument_is_a_type_error(
    client: Any, method: str, text: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        getattr(client, method)(text, **options)
