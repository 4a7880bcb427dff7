"""A Capture's pieces and messages: bounded in bytes, nothing lost, failures beside rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.capture.positions import Positions
from gloss_engine.errors import ItemError
from gloss_engine.text_request import Reading, TextInput
from gloss_server.front.capture_pieces import CapturePieces
from gloss_server.front.capture_stream import CaptureMessages
from gloss_server.front.model import ServedModel
from gloss_server.front.options import Limits
from gloss_server.front.reading_text import CaptureWanted
from gloss_server.front.stream import MAX_MESSAGE_BYTES
from gloss_server.settings import ServeSettings
from support.checkpoints import Pair
from support.front_parts import make_info

ERROR = ItemError(code="INVALID_ARGUMENT", reason="ZERO_VECTOR", message="zero")


def _wanted(*inputs: TextInput | ItemError, **fields: Any) -> CaptureWanted:
    usual: dict[str, Any] = {
        "doc_ids": tuple(f"doc {index}" for index in range(len(inputs))),
        "positions": Positions(),
        "layer_index": None,
        "dtype": pb.TENSOR_DTYPE_UNSPECIFIED,
    }
    return CaptureWanted(inputs=inputs, **(usual | fields))


def _reading(index: int, num_rows: int, width: int, **fields: Any) -> Reading:
    rows = np.random.default_rng(index).normal(size=(num_rows, width)).astype(np.float32)
    return Reading(
        request_id="1",
        index=index,
        token_ids=tuple(range(100, 100 + num_rows)),
        positions=tuple(range(num_rows)),
        activations=rows,
        norms=np.linalg.norm(rows, axis=1),
        is_special=tuple(row % 2 == 0 for row in range(num_rows)),
        **fields,
    )


@pytest.mark.parametrize("width", [8, 8192])
@pytest.mark.parametrize("dtype", ["FLOAT32", "FLOAT16"])
def test_every_row_comes_once_in_bounded_messages(
    pairs: dict[str, Pair], width: int, dtype: str
) -> None:
    model = ServedModel.of("m", make_info(pairs["qwen2"].av, d_model=width, max_text_tokens=9000))
    texts = [TextInput(text="a")] * 4
    names = tuple("x" * 500 + str(index) for index in range(4))
    number = pb.TensorDtype.Value(f"TENSOR_DTYPE_{dtype}")
    wanted = _wanted(*texts, dtype=number, doc_ids=names)
    readings = [_reading(0, 300, width), _reading(1, 1, width), _reading(2, 77, width)]
    messages = list(CaptureMessages(wanted, model).of(readings, (0, 1, 3)))
    assert max(m.ByteSize() for m in messages) < MAX_MESSAGE_BYTES + (64 << 10) < 1 << 20
    assert [m.fingerprint for m in messages] == ["target"] + [""] * (len(messages) - 1)
    numpy_type = "<f4" if dtype == "FLOAT32" else "<f2"
    parts = []
    for message in messages:
        assert list(message.activations.shape) == [len(message.rows), width]
        assert message.activations.dtype == number
        part = np.frombuffer(message.activations.data, numpy_type)
        parts.append(part.reshape(len(message.rows), width))
    expected = np.concatenate([reading.activations for reading in readings])
    np.testing.assert_array_equal(np.concatenate(parts), expected.astype(numpy_type))
    rows = [row for message in messages for row in message.rows]
    assert [row.input_index for row in rows] == [0] * 300 + [1] + [3] * 77
    assert [row.doc_id for row in rows] == [names[row.input_index] for row in rows]
    places = [(row.token_position.position, row.token_position.token_id) for row in rows[-77:]]
    assert places == [(position, 100 + position) for position in range(77)]
    assert [row.is_special for row in rows[:3]] == [True, False, True]
    assert rows[5].token_position.norm == pytest.approx(np.linalg.norm(expected[5]))
    assert {row.token_position.layer_index for row in rows} == {1}


def test_rows_and_failures(pairs: dict[str, Pair]) -> None:
    model = ServedModel.of("m", make_info(pairs["qwen2"].av))
    messages = CaptureMessages(_wanted(*[TextInput(text="a")] * 3, layer_index=3), model)
    (first,) = messages.failed([(1, ERROR)])
    assert first.fingerprint == "target" and not first.rows and not first.HasField("activations")
    assert [failure.item_index for failure in first.failures] == [1]
    failed = Reading(request_id="1", index=0, error=ERROR)
    both = _reading(1, 2, 8, error=ERROR)
    (second,) = messages.of([failed, both], (0, 2))
    assert [failure.item_index for failure in second.failures] == [0, 2]
    assert [row.input_index for row in second.rows] == [2, 2]
    assert second.rows[0].token_position.layer_index == 3
    assert list(messages.of([], ())) == []
    many = list(messages.failed([(index, ERROR) for index in range(20_000)]))
    assert len(many) > 1 and sum(len(m.failures) for m in many) == 20_000


def _limits(pairs: dict[str, Pair], **info: Any) -> Limits:
    model = ServedModel.of("m", make_info(pairs["qwen2"].av, **info))
    return Limits(settings=ServeSettings(max_queued_text_tokens=32_000), model=model)


@pytest.mark.parametrize("width", [8, 8192])
def test_pieces_hold_every_text_once_and_are_bounded(pairs: dict[str, Pair], width: int) -> None:
    limits = _limits(pairs, d_model=width, max_text_tokens=1000)
    lengths = [1, 400, 200, 1, 5000, 3, 700, *[2] * 150]
    inputs = [TextInput(text="x" * length) for length in lengths]
    wanted = _wanted(*inputs[:3], ERROR, *inputs[3:], positions=Positions(step=2))
    pieces = CapturePieces(wanted, limits)
    assert pieces.failures == [(3, ERROR)]
    found = list(pieces)
    indices = [index for piece in found for index in piece.indices]
    assert indices == [index for index in range(len(wanted.inputs)) if index != 3]
    for piece in found:
        texts = [wanted.inputs[index] for index in piece.indices]
        assert list(piece.request.inputs) == texts and piece.request.positions.step == 2
        sizes = [min(len(text.text or ""), 1000) for text in texts if isinstance(text, TextInput)]
        assert sum(sizes) == piece.num_tokens and len(texts) <= 64
        assert len(texts) == 1 or piece.num_tokens <= min(2000, (16 << 20) // (4 * width))
    pairs_of_two = zip(found, found[1:], strict=False)
    assert pieces.num_tokens == max(a.num_tokens + b.num_tokens for a, b in pairs_of_two)
    assert len(found) >= (3 if width == 8 else 6)


def test_a_call_without_a_readable_text(pairs: dict[str, Pair]) -> None:
    pieces = CapturePieces(_wanted(ERROR, ERROR), _limits(pairs))
    assert list(pieces) == [] and pieces.num_tokens == 0 and len(pieces.failures) == 2
    alone = CapturePieces(_wanted(TextInput(token_ids=(1, 2, 3))), _limits(pairs))
    assert alone.num_tokens == 3
