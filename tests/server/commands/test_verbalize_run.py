"""The loop over chunks: slots stay full across their borders, and reading stays near them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from gloss_engine import Engine, EngineConfig, SamplingParams, load_engine
from gloss_server.commands.verbalize.run import finished_chunks
from gloss_server.files.activation_chunk import ActivationChunk
from gloss_server.files.result_row import Row
from gloss_server.sources.explainer import RequestTemplate
from gloss_server.sources.local_explainer import EngineRunner
from support.checkpoints import Pair

SLOTS = 4


@pytest.fixture
def engine(small_pair: Pair) -> Engine:
    return load_engine(small_pair.av, None, EngineConfig(num_slots=SLOTS, max_new_tokens=5))


def template(num_samples: int = 1) -> RequestTemplate:
    return RequestTemplate(
        num_samples=num_samples,
        sampling=SamplingParams(seed=1, max_new_tokens=5),
        layer_index=None,
        allow_layer_mismatch=False,
        score=False,
    )


def run(
    engine: Engine,
    chunks: Iterable[ActivationChunk],
    num_ahead: int,
    count: Callable[[int], None] = lambda num: None,
    num_samples: int = 1,
) -> Iterator[list[Row]]:
    how = template(num_samples)
    return finished_chunks(EngineRunner(engine, how, num_ahead), chunks, how, count)


class Source:
    """Chunks of ones or zeros that count how many were taken."""

    def __init__(self, sizes: list[int], value: float = 1.0) -> None:
        self.sizes, self.value, self.num_taken = sizes, value, 0

    def __iter__(self) -> Iterator[ActivationChunk]:
        start = 0
        for size in self.sizes:
            self.num_taken += 1
            rows = np.full((size, 72), self.value, np.float32)
            yield ActivationChunk(start=start, activations=rows)
            start += size


@pytest.mark.parametrize("num_samples", [1, 3])
def test_slots_stay_full_across_chunks(engine: Engine, num_samples: int) -> None:
    sizes = [3, 1, 2, 5, 1, 1, 4]
    total = sum(sizes) * num_samples
    taken: list[int] = []
    num_done = 0

    def count(num: int) -> None:
        nonlocal num_done
        num_done += num
        taken.append(engine.stats().decode_tokens)

    chunks = list(run(engine, Source(sizes), 3 * SLOTS, count, num_samples))
    rows_per_step = np.diff([0, *taken])
    if num_samples == 1:
        num_started = np.minimum.accumulate(rows_per_step)
        # Every step is full until fewer than the slots are left, then it only shrinks.
        full = int((rows_per_step == SLOTS).sum())
        assert (rows_per_step[:full] == SLOTS).all() and full >= total // SLOTS
        assert (num_started[full:] == rows_per_step[full:]).all()
    else:
        # Samples start a step after their prefill: a slot may idle for it once an item.
        last_full = int(np.nonzero(rows_per_step == SLOTS)[0][-1])
        idle = int((SLOTS - rows_per_step[: last_full + 1]).sum())
        assert idle <= SLOTS + sum(sizes)
    assert num_done == total
    places = sorted((row["index"], row["sample"]) for rows in chunks for row in rows)
    assert places == [(i, s) for i in range(sum(sizes)) for s in range(num_samples)]
    for rows in chunks:
        assert rows == sorted(rows, key=lambda row: (row["index"], row["sample"]))


def test_a_file_is_read_no_further_than_needed(engine: Engine) -> None:
    source = Source([2] * 50)
    ahead = 8
    in_flight = []
    num_done = 0

    def count(num: int) -> None:
        nonlocal num_done
        in_flight.append(2 * source.num_taken - num_done)
        num_done += num

    for _ in run(engine, source, ahead, count):
        pass
    assert num_done == 100 and max(in_flight) <= ahead + 1


def test_rows_that_all_fail_do_not_pile_up(engine: Engine) -> None:
    source = Source([2] * 50, value=0.0)
    first = next(iter(run(engine, source, 8)))
    assert source.num_taken <= 4
    assert [row["error"]["reason"] for row in first] == ["ZERO_VECTOR"] * 2


def test_failed_rows_are_named_by_their_place_in_the_file(engine: Engine) -> None:
    chunk = ActivationChunk(start=7, activations=np.zeros((2, 72), np.float32))
    (rows,) = run(engine, [chunk], 8)
    assert [row["index"] for row in rows] == [7, 8]
    assert [row["error"]["message"][:6] for row in rows] == ["row 7:", "row 8:"]
