"""Capture on the embedded pair: the rows of transformers, in any type, of any number of texts."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.embedded import embedded_pair
from support.server_process import ServerProcess
from support.service_calls import reason_of
from support.text_calls import STORY, Captured, capture_request, listed, sliced, text


@cache
def _model() -> tuple[Any, Any]:
    directory = embedded_pair().target
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(directory), model.eval()


def _rows(content: str, layer_index: int) -> np.ndarray:
    """The output of a block, [n, 128] float32."""
    tokenizer, model = _model()
    found = []
    hook = model.model.layers[layer_index].register_forward_hook(
        lambda module, inputs, output: found.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    with torch.no_grad():
        model(**tokenizer(content, return_tensors="pt", return_token_type_ids=False))
    hook.remove()
    return found[0].reshape(-1, 128).numpy()


@pytest.mark.parametrize("layer", [None, 0, 3])
def test_rows_are_those_of_transformers(embedded: ServerProcess, layer: int | None) -> None:
    texts = [STORY, "Leo is a tailor.", "He waits in the old village. " * 12]
    read = Captured.by(embedded.stub.Capture(capture_request(*texts, layer_index=layer)))
    info = embedded.stub.GetModelInfo(pb.GetModelInfoRequest())
    assert read.messages[0].fingerprint == info.target.fingerprint
    assert not read.failures
    k = info.layer_index if layer is None else layer
    for index, content in enumerate(texts):
        mine = [row for row, entry in enumerate(read.rows) if entry.input_index == index]
        expected = _rows(content, k)
        np.testing.assert_allclose(read.activations[mine], expected, rtol=1e-4, atol=1e-4)
        entries = [read.rows[row] for row in mine]
        ids = _model()[0](content).input_ids
        assert [entry.token_position.token_id for entry in entries] == ids
        assert [entry.token_position.position for entry in entries] == list(range(len(ids)))
        norms = [entry.token_position.norm for entry in entries]
        np.testing.assert_allclose(norms, np.linalg.norm(expected, axis=1), rtol=1e-4)
        assert {entry.token_position.layer_index for entry in entries} == {k}
        assert {entry.doc_id for entry in entries} == {str(index)}


def test_positions_names_and_specials(embedded: ServerProcess) -> None:
    messages = [pb.ChatMessage(role="user", content="Leo waits.")]
    request = pb.CaptureRequest(
        inputs=[
            pb.CaptureInput(doc_id="a chat", input=pb.TextInput(chat=pb.Chat(messages=messages))),
            pb.CaptureInput(doc_id="\x1b[31m\n", input=text("Leo is a tailor. He waits.")),
        ],
        positions=sliced(step=2),
    )
    read = Captured.by(embedded.stub.Capture(request))
    assert read.places() == [*((0, at) for at in (0, 2, 4)), *((1, at) for at in (0, 2, 4, 6))]
    assert [row.is_special for row in read.rows] == [True, False, True, *[False] * 4]
    assert [row.doc_id for row in read.rows] == ["a chat"] * 3 + ["\x1b[31m\n"] * 4


@pytest.mark.parametrize("dtype", ["BFLOAT16", "FLOAT16"])
def test_narrow_rows(embedded: ServerProcess, dtype: str) -> None:
    exact = Captured.by(embedded.stub.Capture(capture_request(STORY))).activations
    number = pb.TensorDtype.Value(f"TENSOR_DTYPE_{dtype}")
    (message,) = embedded.stub.Capture(capture_request(STORY, dtype=number))
    assert message.activations.dtype == number
    if dtype == "BFLOAT16":
        upper = np.frombuffer(message.activations.data, "<u2").astype(np.uint32)
        rows = (upper << 16).view(np.float32)
    else:
        rows = np.frombuffer(message.activations.data, "<f2").astype(np.float32)
    # Rounded to nearest: half a step of 8 and of 11 bits.
    rtol = 2.0**-8 if dtype == "BFLOAT16" else 2.0**-10
    np.testing.assert_allclose(rows.reshape(exact.shape), exact, rtol=rtol, atol=1e-4)


def test_texts_fail_alone(embedded: ServerProcess) -> None:
    texts = ["Leo is a tailor.", "", "a " * 600, "x" * 70_000, "He waits.", "Leo is here now."]
    request = capture_request(*texts, positions=listed(3))
    request.inputs[1].doc_id = "empty"
    read = Captured.by(embedded.stub.Capture(request))
    assert read.places() == [(0, 3), (5, 3)]
    reasons = {index: reason_of(error) for index, error in read.failures.items()}
    assert reasons == {
        1: "EMPTY_TEXT",
        2: "TEXT_TOO_LONG",
        3: "TEXT_TOO_LONG",
        4: "POSITION_OUT_OF_RANGE",
    }
    assert "got 3" in read.failures[4].message and "3 tokens" in read.failures[4].message


def test_a_call_of_many_texts(embedded: ServerProcess) -> None:
    """Cut into pieces, and every text comes once."""
    words = STORY.split()
    texts = [" ".join(words[: 1 + number % 20]) for number in range(500)]
    read = Captured.by(embedded.stub.Capture(capture_request(*texts, positions=listed(0, -1))))
    expected = [len(_model()[0](one).input_ids) for one in texts]
    places = [
        (index, position)
        for index, length in enumerate(expected)
        for position in sorted({0, length - 1})
    ]
    assert sorted(read.places()) == places and not read.failures
    assert len(read.messages) > 3
    embedded.wait_idle()


def _settled(server: ServerProcess) -> int:
    """Activations captured so far, once no more come."""
    found = [-1, server.stats().captured]
    while found[-1] != found[-2]:
        time.sleep(0.4)
        found.append(server.stats().captured)
    return found[-1]


def test_a_slow_reader_holds_up_nobody(embedded: ServerProcess) -> None:
    """Its pieces wait for it; what the server has read ahead is bounded, and others are served."""
    before = embedded.wait_idle().captured
    call = embedded.stub.Capture(capture_request(*["He waits. " * 160] * 60))
    first = next(call)
    # 480 rows a text, of 600 bytes each with what belongs to them: 17 MB in all, of which gRPC
    # itself buffers some.
    assert len(first.rows) < _settled(embedded) - before < 60 * 480 * 0.8
    others = Captured.by(embedded.stub.Capture(capture_request(STORY)))
    assert len(others.rows) == 29
    assert len(first.rows) + sum(len(message.rows) for message in call) == 60 * 480
    embedded.wait_idle()
