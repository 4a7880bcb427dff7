"""Readings in parts: all rows in their order, bounded, and an end that is told after the last."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gloss_engine.errors import OUT_OF_MEMORY
from gloss_engine.text_request import Reading
from gloss_server.link.reading_parts import ReadingPart, ReadingParts

ROW_BYTES = 4 * 4


def _reading(name: str, index: int, num_rows: int) -> Reading:
    if num_rows == 0:
        return Reading(request_id=name, index=index, error=OUT_OF_MEMORY)
    return Reading(
        request_id=name,
        index=index,
        token_ids=(5,) * (2 * num_rows),
        positions=tuple(range(0, 2 * num_rows, 2)),
        activations=np.random.default_rng(index).normal(size=(num_rows, 4)).astype(np.float32),
        norms=np.arange(num_rows, dtype=np.float32),
        is_special=(True,) * num_rows,
    )


def _joined(parts: list[ReadingPart]) -> Reading:
    readings = [part.reading for part in parts]
    return Reading(
        request_id=readings[0].request_id,
        index=readings[0].index,
        token_ids=readings[-1].token_ids,
        positions=sum((one.positions for one in readings), ()),
        activations=np.concatenate([one.activations for one in readings]),
        norms=np.concatenate([one.norms for one in readings]),
        is_special=sum((one.is_special for one in readings), ()),
        error=readings[-1].error,
    )


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 5 * ROW_BYTES),
)
def test_all_rows_come_in_their_order(texts: list[list[int]], most_bytes: int) -> None:
    """`texts`: rows of each text of each capture; one of none could not be read."""
    waiting = ReadingParts(most_bytes)
    given_: dict[tuple[str, int], Reading] = {}
    came: dict[tuple[str, int], list[ReadingPart]] = {}
    told: list[str] = []
    steps = [
        [_reading(str(name), index, rows) for index, rows in enumerate(capture)]
        for name, capture in enumerate(texts)
    ]
    number = 0
    while number < len(steps) or waiting:
        finished = []
        if number < len(steps):
            waiting.add(steps[number])
            given_ |= {(one.request_id, one.index): one for one in steps[number]}
            finished = [str(number)]
            number += 1
        parts = waiting.take()
        assert parts
        rows = sum(len(part.reading.positions) for part in parts)
        assert rows * ROW_BYTES <= most_bytes or rows == 1
        for part in parts:
            assert part.reading.request_id not in told
            came.setdefault((part.reading.request_id, part.reading.index), []).append(part)
        told += waiting.told(finished)
    assert told == [str(name) for name in range(len(texts))]
    assert list(came) == list(given_)
    for key, reading in given_.items():
        assert [part.is_last for part in came[key]] == [False] * (len(came[key]) - 1) + [True]
        joined = _joined(came[key])
        assert joined.positions == reading.positions and joined.error == reading.error
        assert joined.token_ids == reading.token_ids and joined.is_special == reading.is_special
        assert np.array_equal(joined.norms, reading.norms)
        if reading.positions:
            assert np.array_equal(joined.activations, reading.activations)


def test_what_is_cancelled_is_not_sent() -> None:
    waiting = ReadingParts(2 * ROW_BYTES)
    waiting.add([_reading("1", 0, 6), _reading("2", 0, 1)])
    assert len(waiting.take()) == 1 and waiting.told(["1"]) == []
    waiting.drop("1")
    waiting.drop("2")
    # Nothing is left to send, and an end to tell.
    assert waiting and waiting.take() == [] and waiting.told([]) == ["1"] and not waiting
    waiting.add([_reading("2", 0, 1)])
    (part,) = waiting.take()
    assert part.reading.request_id == "2" and part.is_last
    assert waiting.told(["2"]) == ["2"] and not waiting and waiting.take() == []
