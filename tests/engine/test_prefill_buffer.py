"""The prefill buffer: rows at their norm, places, and prefills of rows that stand there already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gloss_engine.engine import Engine
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_kernels import scale_to_norm
from support.backends import BACKENDS, REFERENCE, Backend
from support.checkpoints import Pair
from support.engine_runs import activations, assert_idle, drain, request, small_engine

WIDTH = 7


def _buffer(
    backend: Backend = REFERENCE,
    mode: str = "replace",
    num_places: int = 0,
    dtype: torch.dtype = torch.float16,
) -> PrefillBuffer:
    decoder: Any = SimpleNamespace(
        operations=backend.ops,
        spec=SimpleNamespace(d_model=WIDTH),
        dtype=dtype,
        device=backend.device,
    )
    program: Any = SimpleNamespace(injection_mode=mode, injection_scale=150.0)
    return PrefillBuffer(decoder, program, max_prefills=5, num_places=num_places)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["replace", "add"])
def test_rows_get_there_at_their_norm(backend: Backend, mode: str) -> None:
    """In the AV's type and at its scale, or as unit directions in float32; others stay."""
    buffer = _buffer(backend, mode, num_places=2)
    assert buffer.rows.shape == (8, WIDTH) and not buffer.rows.any()
    assert buffer.rows.dtype == (torch.float16 if mode == "replace" else torch.float32)
    raw, places = activations(3, WIDTH).to(backend.device), [7, 0, 2]
    buffer.write(raw, torch.tensor(places, device=backend.device))
    expected = scale_to_norm(raw, 150.0 if mode == "replace" else 1.0)
    tolerance = 2.0**-10 if mode == "replace" else 1e-6
    got = buffer.rows[places]
    torch.testing.assert_close(got.float(), expected, rtol=tolerance, atol=1e-6)
    assert not buffer.rows[[1, 3, 4, 5, 6]].any()
    if backend is REFERENCE:
        assert torch.equal(got, expected.to(got.dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_activations_from_the_host_and_the_device(backend: Backend) -> None:
    """On a GPU every other one is there already; each comes to the row that is said to be its."""
    buffer = _buffer(backend, dtype=torch.float32)
    raw = activations(5, WIDTH)
    given = [row.to(backend.device) if index % 2 else row for index, row in enumerate(raw)]
    places = buffer.write_starting(given)
    assert sorted(places) == [1, 2, 3, 4, 5]
    expected = scale_to_norm(raw, 150.0)
    torch.testing.assert_close(buffer.rows[places].cpu(), expected, rtol=1e-6, atol=1e-6)
    assert not buffer.rows[0].any()
    assert buffer.write_starting([]) == []


def test_places_are_given_once_until_they_are_released() -> None:
    buffer = _buffer(num_places=3)
    first = buffer.reserve(2)
    assert buffer.reserve(3) == [8, 0, 0] and sorted(first) == [6, 7]
    assert buffer.num_reserved == 3 and buffer.reserve(1) == [0]
    buffer.release([first[1], 0, 0])
    assert buffer.num_reserved == 2 and buffer.reserve(2) == [first[1], 0]
    buffer.release([*first, 8])
    assert buffer.num_reserved == 0 and sorted(buffer.reserve(3)) == [6, 7, 8]


@pytest.mark.parametrize("place", [1, 5, 6])
def test_nothing_is_released_that_is_not_reserved(place: int) -> None:
    """A row for prefills that start, or a place that nobody holds: it would be given out twice."""
    buffer = _buffer(num_places=1)
    buffer.reserve(1)
    buffer.release([6])
    with pytest.raises(AssertionError, match=f"place {place} is not reserved"):
        buffer.release([place])
    assert _buffer().reserve(2) == [0, 0]


def _with_places(pair: Pair, num_places: int, **settings: Any) -> Engine:
    """An engine as a target would have it: with places for its captures."""
    engine = small_engine(pair.av, **settings)
    runner = engine.runner
    buffer = PrefillBuffer(
        runner.decoder,
        runner.program,
        max_prefills=runner.prefill_buffer.max_prefills,
        num_places=num_places,
    )
    runner.prefill_buffer = runner.step.prefill_buffer = buffer
    return engine


def _capture(engine: Engine, indices: tuple[int, ...]) -> list[int]:
    """Write waiting items' rows to places; their raw rows are spoiled, so that none is read."""
    buffer = engine.runner.prefill_buffer
    places = buffer.reserve(len(indices))
    for index, place in zip(indices, places, strict=True):
        item = list(engine.scheduler.waiting)[index]
        buffer.write(item.activation[None], torch.tensor([place]))
        if place:
            item.place, item.activation = place, torch.full_like(item.activation, torch.nan)
    return places


@pytest.mark.parametrize("settings", [
    {"num_slots": 16},
    {"num_slots": 3, "injection_mode": "add"},
    {"num_slots": 12, "graphs": "on", "lag": 1, "max_step_tokens": 64},
    {"num_slots": 12, "graphs": "on", "lag": 1, "batch_invariant": True},
])  # fmt: skip
@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_captured_row_is_explained_like_a_callers(
    pairs: dict[str, Pair], num_samples: int, settings: dict[str, Any]
) -> None:
    """With places for some, beside rows of callers; twice over, since places come back."""
    engine = _with_places(pairs["qwen2"], 4, **settings)
    engine.warm_up()
    sent = request(
        activations(9, engine.facts.d_model), num_samples=num_samples, seed=1, max_new_tokens=6
    )
    expected = engine.verbalize(sent)
    for _ in range(2):
        engine.submit(sent, "r")
        assert _capture(engine, (0, 2, 3, 7, 8))[-1] == 0
        found = drain(engine)
        for explanation in expected:
            got = found["r", explanation.index, explanation.sample]
            assert got.error is None and got.token_ids == explanation.token_ids
            # The pages are others, and a sum over keys in another order rounds otherwise.
            assert got.logprob == pytest.approx(explanation.logprob, abs=1e-3)
        assert_idle(engine)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_cancelled_item_gives_its_place_back(
    pairs: dict[str, Pair], num_samples: int, steps: int
) -> None:
    """Not started, started, or between its forks."""
    engine = _with_places(pairs["qwen2"], 6, num_slots=2)
    rows = activations(6, engine.facts.d_model)
    engine.submit(request(rows, num_samples=num_samples, seed=1, max_new_tokens=20), "gone")
    places = _capture(engine, (0, 1, 2, 3, 5))
    for _ in range(steps):
        engine.step()
    waiting = [item for item in engine.scheduler.waiting if item.place]
    assert len(waiting) == engine.runner.prefill_buffer.num_reserved >= 3
    engine.cancel("gone")
    engine.step()
    assert_idle(engine)
    assert set(engine.runner.prefill_buffer.reserve(6)) > set(places)
