"""The loop as a GPU runs it, on a CPU: listed sizes, idle rows, a step of lag; capture is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.request import Explanation
from gloss_engine.sampling import SamplingParams
from gloss_engine.step_shape import DRAW_ONLY, EVERY_PART, StepShape, StepSizes
from gloss_engine.text_request import WatchRequest
from support.checkpoints import Pair, write_target
from support.engine_runs import activations, assert_idle, drain, request, run_in_waves, small_engine
from support.text_runs import ids, run, text_engine

GRAPHS: dict[str, Any] = {"graphs": "on", "lag": 1, "max_step_tokens": 64}


def _waves(width: int) -> dict[int, dict[str, Any]]:
    """Requests of all kinds that come while others run."""
    rows = activations(40, width, seed=5)
    return {
        0: {
            "plain": request(rows[:9], seed=1, max_new_tokens=14),
            "samples": request(rows[9:11], num_samples=5, seed=2, max_new_tokens=9),
        },
        2: {
            "all": request(
                rows[11:15], seed=3, temperature=1.2, top_k=30, top_p=0.9, min_p=0.01,
                repetition_penalty=1.3, max_new_tokens=20,
            ),
            "greedy": request(rows[15:17], temperature=0.0, max_new_tokens=3),
        },
        3: {"stops": request(rows[17:20], seed=4, stop=("a", "e"), max_new_tokens=18)},
        9: {"late": request(rows[20:40], seed=6, max_new_tokens=5)},
        10: {"one": request(rows[:1], seed=7, max_new_tokens=1)},
    }  # fmt: skip


@pytest.mark.parametrize("settings", [
    {"num_slots": 2, "num_watches": 5},
    {"num_slots": 40, "num_watches": 5},
    {"num_slots": 2, "num_watches": 5, "batch_invariant": True},
])  # fmt: skip
def test_a_target_has_the_sizes_of_its_own_slots(
    pairs: dict[str, Pair], tmp_path: Path, settings: dict[str, Any]
) -> None:
    target = write_target(tmp_path / "target", "qwen2", seed=7)
    engine = text_engine(pairs["qwen2"].av, target, **GRAPHS, **settings)
    assert engine.target is not None and engine.target.generator is not None
    rows = engine.target.generator.sizes.rows
    assert rows == ((5,) if settings.get("batch_invariant") else (1, 2, 4, 5))
    sampling = SamplingParams(max_new_tokens=4, seed=1)
    for number in range(5):
        watch = WatchRequest(input=ids(20 + number), target_sampling=sampling, sampling=sampling)
        engine.submit_watch(watch, f"w{number}")
    assert sorted(run(engine)) == [f"w{number}" for number in range(5)]


def _said(found: dict[Any, Explanation]) -> dict[Any, tuple[Any, ...]]:
    return {key: (e.token_ids, e.finish_reason, e.raw_text, e.flags) for key, e in found.items()}


@pytest.mark.parametrize("settings", [
    {"num_slots": 16},
    {"num_slots": 5, "page_size": 4},
    {"num_slots": 3, "page_size": 16, "num_pages": 30, "max_step_tokens": 1},
    {"num_slots": 40, "batch_invariant": True},
    {"num_slots": 12, "lag": 0},
    {"num_slots": 12, "graphs": "off"},
])  # fmt: skip
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_the_same_explanations(pairs: dict[str, Pair], arch: str, settings: dict[str, Any]) -> None:
    """As one by one, without a lag and without a list, whatever joins and leaves meanwhile."""
    exact = small_engine(pairs[arch].av, num_slots=16)
    expected = run_in_waves(exact, _waves(exact.facts.d_model))
    engine = small_engine(pairs[arch].av, **{"max_new_tokens": 40, **GRAPHS, **settings})
    engine.warm_up()
    found = run_in_waves(engine, _waves(engine.facts.d_model))
    assert _said(found) == _said(expected)
    for key, explanation in found.items():
        assert explanation.logprob == pytest.approx(expected[key].logprob, abs=1e-3)
    assert_idle(engine)


def test_kernels_run_the_same_loop(shallow_pairs: dict[str, Pair]) -> None:
    """Idle rows on the kernels too: they read and write nothing that counts."""
    reference = small_engine(shallow_pairs["qwen2"].av)
    rows = activations(2, reference.facts.d_model)
    sent = request(rows, seed=1, max_new_tokens=2, top_p=0.9)
    expected = reference.verbalize(sent)
    engine = small_engine(
        shallow_pairs["qwen2"].av,
        **GRAPHS,
        num_slots=4,
        max_new_tokens=3,
        page_size=16,
        kernels="triton",
    )
    found = engine.verbalize(sent)
    assert [e.token_ids for e in found] == [e.token_ids for e in expected]


def test_a_row_is_the_same_in_any_company(pairs: dict[str, Pair]) -> None:
    """batch_invariant: log-probabilities to the last bit, alone and among others, in any slot."""
    engine = small_engine(
        pairs["qwen2"].av, **GRAPHS, num_slots=12, max_new_tokens=12, batch_invariant=True
    )
    rows = activations(12, engine.facts.d_model)
    mine = request(rows[:2], seed=1, max_new_tokens=12)
    alone = engine.verbalize(mine)
    crowd = {
        0: {"others": request(rows[2:7], seed=2, max_new_tokens=6)},
        1: {"more": request(rows[7:10], seed=3, top_p=0.7, max_new_tokens=12)},
        3: {"mine": mine},
    }
    found = run_in_waves(engine, crowd)
    for expected in alone:
        got = found["mine", expected.index, 0]
        assert (got.token_ids, got.logprob) == (expected.token_ids, expected.logprob)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("page_size", [4, 64])
def test_nan_stays_with_its_sequence(pairs: dict[str, Pair], lag: int, page_size: int) -> None:
    """Its slot and pages go to others, with a lag before anybody has read that it failed."""
    engine = small_engine(
        pairs["qwen2"].av, **GRAPHS | {"lag": lag}, num_slots=3, page_size=page_size, num_pages=80
    )
    rows = activations(12, engine.facts.d_model)
    sent = request(rows, seed=1, max_new_tokens=4)
    clean = {(e.index, e.sample): e.token_ids for e in engine.verbalize(sent)}
    engine.submit(sent, "r")
    for index in (1, 4, 5, 10):
        list(engine.scheduler.waiting)[index].activation.fill_(torch.nan)
    found = drain(engine)
    for (_, index, sample), result in found.items():
        if index in (1, 4, 5, 10):
            assert result.error is not None and result.error.reason == "NON_FINITE_OUTPUT"
        else:
            assert result.token_ids == clean[index, sample]
    assert_idle(engine)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_cancelling_with_a_step_in_flight(pairs: dict[str, Pair], steps: int) -> None:
    """What was read comes back as cancelled; the pages go to others, who get their own tokens."""
    engine = small_engine(pairs["qwen2"].av, **GRAPHS, num_slots=4, page_size=8, num_pages=60)
    rows = activations(8, engine.facts.d_model)
    whole = engine.verbalize(request(rows[:4], seed=1, max_new_tokens=20))
    after = engine.verbalize(request(rows[4:], seed=2, max_new_tokens=20))
    engine.submit(request(rows[:4], seed=1, max_new_tokens=20), "gone")
    for _ in range(steps):
        engine.step()
    engine.cancel("gone")
    engine.submit(request(rows[4:], seed=2, max_new_tokens=20), "kept")
    found = drain(engine)
    for expected in whole:
        got = found["gone", expected.index, 0]
        count = len(got.token_ids)
        assert got.finish_reason == "cancelled" and count == steps - 1
        assert got.token_ids == expected.token_ids[:count]
    assert [found["kept", e.index, 0].token_ids for e in after] == [e.token_ids for e in after]
    assert_idle(engine)


def test_only_listed_shapes_run(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are padded to a size; prefills are a size, or too many for a graph."""
    engine = small_engine(pairs["qwen2"].av, **GRAPHS | {"max_step_tokens": None}, num_slots=40)
    seen = _shapes_of(engine, monkeypatch)
    run_in_waves(engine, _waves(engine.facts.d_model))
    engine.verbalize(request(activations(30, engine.facts.d_model), max_new_tokens=2))
    sizes = engine.runner.sizes
    listed = set(sizes.shapes())
    largest = sizes.prefills[-1]
    assert {shape for shape in seen if shape.num_prefills <= largest} <= listed
    assert any(shape.num_prefills > largest for shape in seen)
    assert len(set(seen)) > 6


def _shapes_of(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[StepShape]:
    seen: list[StepShape] = []
    run = engine.runner.step.run

    def noted(shape: StepShape, first: int = 0) -> None:
        seen.append(shape)
        run(shape, first)

    monkeypatch.setattr(engine.runner.step, "run", noted)
    return seen


def test_a_step_beside_running_rows_is_bounded(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing running a step prefills all that fits; else it is bounded, or prefills one."""
    bound = 80
    engine = small_engine(pairs["qwen2"].av, **GRAPHS | {"max_step_tokens": bound}, num_slots=8)
    seen = _shapes_of(engine, monkeypatch)
    rows = activations(30, engine.facts.d_model)
    engine.submit(request(rows[:1], temperature=0.0, max_new_tokens=30), "long")
    engine.submit(request(rows[:5], seed=1, max_new_tokens=2))
    engine.step()
    engine.submit(request(rows[5:], seed=1, max_new_tokens=3))
    while engine.step().num_rows > 1:
        pass
    length = engine.runner.step.prefill_len
    assert seen[0].num_prefills * length > bound
    busy = [shape.num_rows + shape.num_prefills * length for shape in seen[1:]]
    assert max(busy) <= max(bound, 8 + length) and sum(s.num_prefills for s in seen) > 20


@pytest.mark.parametrize(("settings", "said"), [
    ({"graphs": "yes"}, "graphs: got 'yes', expected one of auto, on, off"),
    ({"graphs": "off", "batch_invariant": True}, "graphs: got off beside batch_invariant"),
    ({"lag": 2}, "lag: got 2"),
    ({"lag": True}, "lag: got True"),
    ({"max_step_tokens": 0}, "max_step_tokens: got 0"),
    ({"memory_fraction": 0.0}, "memory_fraction: got 0.0"),
    ({"memory_fraction": "x"}, "memory_fraction: got 'x'"),
    ({"score_budget_ms": 0}, "score_budget_ms: got 0, expected more than 0"),
])  # fmt: skip
def test_settings_that_make_no_loop(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        EngineConfig(**settings)


def test_sizes() -> None:
    sizes = StepSizes.listed(300, 81, 145)
    assert sizes.rows is not None
    assert sizes.rows == tuple(sorted(set(sizes.rows))) and sizes.rows[-1] == 300
    assert [sizes.fit(n) for n in (0, 1, 3, 33, 64, 257, 300)] == [0, 1, 4, 64, 64, 300, 300]
    assert [sizes.startable(n) for n in (0, 1, 3, 7, 16, 17, 81)] == [0, 1, 2, 4, 16, 17, 81]
    shapes = list(sizes.shapes())
    assert len(shapes) == len(set(shapes)) == 2 * len(sizes.rows) * (1 + len(sizes.prefills))
    assert sizes.shape(5, 3, frozenset({"draw"}), 1).parts == DRAW_ONLY
    assert sizes.shape(5, 3, frozenset({"greedy"}), 1).parts == EVERY_PART


def test_one_size() -> None:
    sizes = StepSizes.listed(12, 81, 145, one=True)
    assert {shape.num_rows for shape in sizes.shapes()} == {12}
    assert sizes.fit(1) == sizes.fit(12) == 12 and sizes.startable(5) == 5
