"""The device's memory does not suffice: smaller parts once, then errors, and the others go on.

The failure is injected (`support/allocator.py`); test_out_of_memory_gpu.py fills a GPU for real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from gloss_engine import device_memory
from gloss_engine.config import EngineConfig
from gloss_engine.device_memory import is_out_of_memory
from gloss_engine.engine import Engine
from gloss_engine.errors import MemoryTooSmall
from gloss_engine.loading import load_engine
from gloss_engine.request import Explanation, TextRequest, VerbalizeRequest
from gloss_engine.step_shape import StepShape
from support.allocator import TightMemory, larger_than, the_nth
from support.checkpoints import Pair
from support.engine_runs import Key, activations, assert_idle, request, small_engine

GRAPHS: dict[str, Any] = {"graphs": "on", "lag": 1}
SETTINGS: list[dict[str, Any]] = [{}, GRAPHS, GRAPHS | {"batch_invariant": True}]
POISON = 1e4
"""A norm that no other activation has: whose prefill there is no memory for."""


def _engine(pairs: dict[str, Pair], settings: dict[str, Any]) -> Engine:
    given = {"num_slots": 6, "page_size": 8, "max_new_tokens": 12} | settings
    return small_engine(pairs["qwen2"].av, **given)


def _waves(width: int) -> dict[int, dict[str, VerbalizeRequest]]:
    """Prefills, forks, filters, penalties, departures and moves."""
    rows = activations(12, width, seed=5)
    return {
        0: {
            "plain": request(rows[:4], seed=1, max_new_tokens=6),
            "samples": request(rows[4:6], num_samples=3, seed=2, max_new_tokens=4),
        },
        2: {"all": request(
            rows[6:8], seed=3, temperature=1.2, top_k=30, top_p=0.9, repetition_penalty=1.3,
            max_new_tokens=5,
        )},
        4: {"late": request(rows[8:], seed=6, max_new_tokens=3)},
    }  # fmt: skip


def _run(
    engine: Engine, waves: Mapping[int, Mapping[str, VerbalizeRequest]], step: Callable[[int], Any]
) -> dict[Key, Explanation]:
    """As `run_in_waves`, each step by `step`."""
    found: dict[Key, Explanation] = {}
    number = 0
    while number <= max(waves) or engine.has_work:
        for name, submitted in waves.get(number, {}).items():
            engine.submit(submitted, name)
        for e in step(number).explanations:
            assert (e.request_id, e.index, e.sample) not in found
            found[e.request_id, e.index, e.sample] = e
        number += 1
    assert_idle(engine)
    return found


def _said(found: dict[Key, Explanation]) -> dict[Key, tuple[Any, ...]]:
    return {key: (e.token_ids, e.finish_reason) for key, e in found.items()}


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_allocation_that_fails_once_changes_nothing(
    pairs: dict[str, Pair], settings: dict[str, Any]
) -> None:
    """In every step another one, early and late: what was half done is done again."""
    engine, memory = _engine(pairs, settings), TightMemory()
    waves = _waves(engine.facts.d_model)
    expected = _said(_run(engine, waves, lambda number: engine.step()))
    num_refused = 0

    def step(number: int) -> Any:
        nonlocal num_refused
        with memory.armed(the_nth(number * 29 % 211)):
            out = engine.step()
        num_refused += memory.num_refused
        return out

    assert _said(_run(engine, waves, step)) == expected
    assert engine.stats().out_of_memory == num_refused > 8


def _poisoned(engine: Engine, memory: TightMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for a forward that prefills an activation of an enormous norm."""
    buffer, run = engine.runner.prefill_buffer, engine.runner.graphs.run
    is_poisoned = False
    write = buffer.write_starting

    def noted(rows: list[torch.Tensor]) -> list[int]:
        nonlocal is_poisoned
        is_poisoned = any(float(row.norm()) > POISON for row in rows)
        return write(rows)

    def tight(shape: StepShape, first: int = 0) -> None:
        memory.refuses = larger_than(0) if is_poisoned and shape.num_prefills else None
        try:
            run(shape, first)
        finally:
            memory.refuses = None

    monkeypatch.setattr(buffer, "write_starting", noted)
    monkeypatch.setattr(engine.runner.graphs, "run", tight)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_prefill_that_never_fits_fails_alone(
    pairs: dict[str, Pair], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its samples; the others have the tokens they would have had."""
    engine, memory = _engine(pairs, settings), TightMemory()
    waves = _waves(engine.facts.d_model)
    expected = _said(_run(engine, waves, lambda number: engine.step()))
    poisoned = {("plain", 1), ("samples", 0), ("late", 3)}
    for name, index in poisoned:
        for wave in waves.values():
            if name in wave:
                torch.as_tensor(wave[name].activations)[index] *= 1e6
    _poisoned(engine, memory, monkeypatch)
    with memory:
        found = _run(engine, waves, lambda number: engine.step())
    assert found.keys() == expected.keys()
    for key, explanation in found.items():
        if key[:2] in poisoned:
            assert explanation.error is not None and explanation.finish_reason == "error"
            assert explanation.error.code == "RESOURCE_EXHAUSTED"
            assert explanation.error.reason == "OUT_OF_MEMORY"
        else:
            assert (explanation.token_ids, explanation.finish_reason) == expected[key]
    assert engine.stats().item_errors == {"OUT_OF_MEMORY": 5}
    assert engine.stats().out_of_memory >= 5


@pytest.mark.parametrize("lag", [0, 1])
def test_rows_that_never_fit_fail_and_the_other_half_goes_on(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    engine, memory = _engine(pairs, {"lag": lag}), TightMemory()
    rows = activations(9, engine.facts.d_model, seed=5)
    waves = {0: {"r": request(rows, seed=1, temperature=0.8, max_new_tokens=9)}}
    expected = _said(_run(engine, waves, lambda number: engine.step()))
    run, number = engine.runner.graphs.run, 0

    def tight(shape: StepShape, first: int = 0) -> None:
        upper = first > 0 or shape.num_rows == 6
        memory.refuses = larger_than(0) if number == 3 and upper else None
        try:
            run(shape, first)
        finally:
            memory.refuses = None

    monkeypatch.setattr(engine.runner.graphs, "run", tight)

    def step(at: int) -> Any:
        nonlocal number
        number = at
        return engine.step()

    with memory:
        found = _run(engine, waves, step)
    failed = {key for key, explanation in found.items() if explanation.error is not None}
    assert failed == {("r", 3, 0), ("r", 4, 0), ("r", 5, 0)}
    assert {k: v for k, v in _said(found).items() if k not in failed} == {
        k: v for k, v in expected.items() if k not in failed
    }


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("at", [1, 2])
def test_with_no_memory_at_all_what_runs_fails_and_what_waits_goes_on(
    pairs: dict[str, Pair], settings: dict[str, Any], at: int
) -> None:
    """Also where it is the tokens of a step that cannot be copied out."""
    engine, memory = _engine(pairs, settings), TightMemory()
    rows = activations(14, engine.facts.d_model, seed=5)
    waves = {0: {"r": request(rows, seed=1, max_new_tokens=4, repetition_penalty=1.2)}}
    expected = _said(_run(engine, waves, lambda number: engine.step()))

    def step(number: int) -> Any:
        if number != at:
            return engine.step()
        with memory.armed(larger_than(0)):
            return engine.step()

    found = _run(engine, waves, step)
    failed = {key for key, explanation in found.items() if explanation.error is not None}
    assert len(found) == 14 and 0 < len(failed) < 14
    assert {k: v for k, v in _said(found).items() if k not in failed} == {
        k: v for k, v in expected.items() if k not in failed
    }


@pytest.mark.parametrize("lag", [0, 1])
def test_the_ar_runs_halves_and_what_never_fits_has_an_error(
    pairs: dict[str, Pair], lag: int
) -> None:
    pair = pairs["qwen2"]
    engine = small_engine(pair.av, pair.ar, lag=lag, num_slots=8, fve_baseline=0.9)
    assert engine.scores is not None
    memory, start = TightMemory(), engine.scores._start
    sent = request(activations(8, engine.facts.d_model), seed=1, max_new_tokens=6)
    expected = engine.verbalize(sent)
    sizes: list[int] = []

    def tight(entries: list[Any]) -> Any:
        sizes.append(len(entries))
        refuses = the_nth(5) if len(sizes) == 1 else larger_than(0 if fails else 1 << 30)
        with memory.armed(refuses):
            return start(entries)

    engine.scores._start = tight  # type: ignore[method-assign]
    for fails in (False, True):
        sizes.clear()
        engine.submit(sent, "r")
        engine.submit_texts(TextRequest(texts=("a", "b")), "t")
        texts, found = [], {}
        while engine.has_work:
            out = engine.step()
            texts += out.texts
            found |= {e.index: e for e in out.explanations}
        assert sizes[1:3] == [(sizes[0] + 1) // 2, sizes[0] // 2]
        assert len(texts) == 2 and len(found) == 8
        errors = [r.error.reason for r in (*texts, *found.values()) if r.error is not None]
        assert errors == ["OUT_OF_MEMORY"] * (sum(sizes[1:]) if fails else 0)
        for want in expected:
            got = found[want.index]
            if got.error is None:
                assert got.cosine == pytest.approx(want.cosine, abs=1e-5)
                assert got.token_ids == want.token_ids
            else:
                assert got.finish_reason == "error" and got.cosine is None
        assert_idle(engine)


def test_a_start_that_does_not_fit_is_refused_in_words(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(pairs, GRAPHS)
    with (
        TightMemory().armed(larger_than(1000)),
        pytest.raises(MemoryTooSmall, match="does not suffice for the steps' graphs .* lower memo"),
    ):
        engine.warm_up()
    with (
        TightMemory().armed(larger_than(100_000)),
        pytest.raises(MemoryTooSmall, match="does not suffice for the checkpoints .* larger devi"),
    ):
        load_engine(pairs["qwen2"].av, None, EngineConfig(device="cpu"))


def test_another_error_is_none_of_memory(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the engine, as before."""
    engine = _engine(pairs, {})

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.runner.step, "run", broken)
    engine.submit(request(activations(1, engine.facts.d_model), max_new_tokens=2))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        engine.step()


@pytest.mark.parametrize(("error", "is_one"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
    (RuntimeError("CUDA error: out of memory"), True),
    (RuntimeError("Triton Error [CUDA]: out of memory"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
    (RuntimeError("CUDA error: device-side assert triggered"), False),
    (ValueError("out of memory"), False),
])  # fmt: skip
def test_what_counts(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one
    wrapped = RuntimeError("operation failed due to a previous error during capture")
    wrapped.__context__ = error
    assert is_out_of_memory(wrapped) is is_one


def test_the_cache_is_emptied_once_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tensors of the failed work are gone already."""
    emptied: list[bool] = []
    gone: list[Any] = []
    properties = type("Properties", (), {"total_memory": 1})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    memory = device_memory.DeviceMemory(torch.device("cuda"))

    class Held:
        def __del__(self) -> None:
            gone.append(True)

    def work() -> bool:
        held = Held()
        raise torch.OutOfMemoryError(str(held)[:0])

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(bool(gone)))
    assert memory.attempt(work) is None
    assert emptied == [True] and memory.num_exhausted == 1
    assert memory.attempt(lambda: 3) == 3 and emptied == [True]
