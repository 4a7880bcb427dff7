"""Requests of text that make no sense are refused when they are made or submitted, in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gloss_engine import CaptureRequest, ExplainRequest, Positions, RequestError, WatchRequest
from gloss_engine.engine import Engine
from gloss_engine.text_request import TextInput
from support.checkpoints import Pair
from support.text_runs import ids, text_engine


@pytest.fixture(scope="module")
def engine(pairs: dict[str, Pair], targets: dict[str, Path]) -> Engine:
    """Of which nothing odd may stay behind."""
    return text_engine(pairs["qwen2"].av, targets["qwen2"])


@pytest.mark.parametrize(
    ("options", "reason", "said"),
    [
        ({}, "INVALID_INPUT", "got none of the forms, expected one of text"),
        ({"text": "a", "token_ids": (1,)}, "INVALID_INPUT", "got text and token_ids, expected"),
        ({"text": 5}, "INVALID_TEXT", "got a int as text, expected a string"),
        ({"token_ids": (1.7, 2.2)}, "INVALID_TOKEN_IDS", "got token id 1.7 at 0, expected"),
        ({"token_ids": (1, True)}, "INVALID_TOKEN_IDS", "got token id True at 1, expected"),
        ({"token_ids": np.array([1.0])}, "INVALID_TOKEN_IDS", "got token id 1.0 at 0, expected"),
        ({"token_ids": np.ones((1, 2), int)}, "INVALID_TOKEN_IDS", r"got token id \[1, 1\] at 0"),
        ({"token_ids": np.array(3)}, "INVALID_TOKEN_IDS", "got a ndarray as token_ids"),
        ({"token_ids": "12"}, "INVALID_TOKEN_IDS", "got a str as token_ids, expected a sequence"),
        ({"token_ids": 3}, "INVALID_TOKEN_IDS", "got a int as token_ids, expected a sequence"),
        ({"messages": "hi"}, "INVALID_CHAT", "got a str as messages, expected pairs"),
        ({"messages": ("hi",)}, "INVALID_CHAT", "got 'hi' as message 0, expected a pair"),
        ({"messages": (("user", 1),)}, "INVALID_CHAT", r"got \('user', 1\) as message 0"),
    ],
)
def test_an_input_that_is_no_text(options: Any, reason: str, said: str) -> None:
    with pytest.raises(RequestError, match=said) as error:
        TextInput(**options)
    assert (error.value.reason, error.value.field) == (reason, "input")


@pytest.mark.parametrize("make", [list, np.array, lambda values: tuple(map(np.int32, values))])
def test_token_ids_of_any_kind_become_ints(make: Callable[[Any], Any]) -> None:
    given = TextInput(token_ids=make((3, 1)))
    assert given == ids(3, 1) and given.token_ids is not None
    assert [type(token_id) for token_id in given.token_ids] == [int, int]


def test_messages_become_pairs() -> None:
    assert TextInput(messages=[["user", "x"]]).messages == (("user", "x"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options", "reason", "field"),
    [
        ("capture", {"layer_index": 1.0}, "INVALID_LAYER", "layer_index"),
        ("capture", {"layer_index": True}, "INVALID_LAYER", "layer_index"),
        ("capture", {"layer_index": "1"}, "INVALID_LAYER", "layer_index"),
        ("capture", {"layer_index": -1}, "LAYER_OUT_OF_RANGE", "layer_index"),
        ("capture", {"positions": "all"}, "INVALID_POSITIONS", "positions"),
        ("capture", {"inputs": ()}, "EMPTY_BATCH", "inputs"),
        ("capture", {"inputs": "text"}, "INVALID_INPUT", "inputs"),
        ("capture", {"inputs": ("text",)}, "INVALID_INPUT", "input"),
        ("explain", {"positions": "all"}, "INVALID_POSITIONS", "positions"),
        ("explain", {"positions": None}, "INVALID_POSITIONS", "positions"),
        ("explain", {"input": "text"}, "INVALID_INPUT", "input"),
        ("watch", {"prompt_positions": [0]}, "INVALID_POSITIONS", "prompt_positions"),
        ("watch", {"input": "text"}, "INVALID_INPUT", "input"),
    ],
)
def test_what_cannot_run_is_refused_when_submitted(
    engine: Engine, kind: str, options: dict[str, Any], reason: str, field: str
) -> None:
    given: dict[str, Any] = {"inputs": (ids(1),)} if kind == "capture" else {"input": ids(1)}
    request = {"capture": CaptureRequest, "explain": ExplainRequest, "watch": WatchRequest}[kind](
        **given | options
    )
    with pytest.raises(RequestError, match="got .*, expected ") as error:
        getattr(engine, f"submit_{kind}")(request)
    assert (error.value.reason, error.value.field) == (reason, field)
    assert not engine.has_work


def test_a_layer_of_numpys_is_a_layer(engine: Engine) -> None:
    layer: Any = np.int64(1)
    engine.submit_capture(
        CaptureRequest(inputs=(ids(1, 2),), positions=Positions(), layer_index=layer)
    )
    readings = []
    while engine.has_work:
        readings += engine.step().readings
    assert [reading.positions for reading in readings] == [(0, 1)]
