"""The device's memory does not suffice for the target: halves once, then errors; see
test_out_of_memory.py. Injected, as there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gloss_engine.capture.positions import Positions
from gloss_engine.engine import Engine
from gloss_engine.sampling import SamplingParams
from gloss_engine.step_shape import StepShape
from gloss_engine.target.reader import LongText, TextToRead
from gloss_engine.text_request import CaptureRequest, ExplainRequest, WatchRequest
from support.allocator import TightMemory, larger_than, the_nth
from support.checkpoints import Pair
from support.engine_runs import assert_idle
from support.text_runs import Brought, assert_target_idle, ids, run, step, text_engine

SETTINGS: list[dict[str, Any]] = [{}, {"graphs": "on", "lag": 1}]
LENGTHS = (9, 12, 70, 5)
SAMPLING = SamplingParams(max_new_tokens=2, seed=3)


def _engine(pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any]) -> Engine:
    return text_engine(pairs["qwen2"].av, targets["qwen2"], max_read_tokens=32, **settings)


def _text(length: int) -> tuple[int, ...]:
    return tuple((7 * i * length + 5) % 180 + 20 for i in range(length))


def _submit(engine: Engine) -> None:
    """Texts packed and in chunks, and prompts that are gone on from."""
    engine.submit_capture(CaptureRequest(inputs=tuple(ids(*_text(n)) for n in LENGTHS)), "c")
    explained = ExplainRequest(
        input=ids(*_text(11)), positions=Positions.parse("3:6"), sampling=SAMPLING
    )
    engine.submit_explain(explained, "e")
    for number in range(3):
        watched = WatchRequest(
            input=ids(*_text(1 + 20 * number)),
            # Long enough that all three speak at once, whoever was let in first.
            target_sampling=SamplingParams(max_new_tokens=14, temperature=0.9, seed=number),
            sampling=SAMPLING,
            every=2,
        )
        engine.submit_watch(watched, f"w{number}")


def _drive(engine: Engine, one: Callable[[dict[str, Brought]], None]) -> dict[str, Brought]:
    found: dict[str, Brought] = {}
    while engine.has_work:
        one(found)
    assert_idle(engine)
    assert_target_idle(engine)
    return found


def _said(brought: Brought) -> tuple[Any, ...]:
    explained = {key: (e.token_ids, e.place) for key, e in brought.explanations.items()}
    tokens = [(token.position, token.token_id) for token in brought.tokens]
    # An activation's norm is a sum that chunks make in another order.
    places = {key: (ids, place and place.position) for key, (ids, place) in explained.items()}
    return places, tokens, [end.finish_reason for end in brought.ends]


def _assert_same_rows(got: Brought, expected: Brought, but: tuple[int, ...] = ()) -> None:
    rows = {reading.index: reading for reading in got.readings}
    assert len(rows) == len(got.readings) == len(expected.readings)
    for reading in expected.readings:
        if reading.index not in but:
            apart = np.linalg.norm(rows[reading.index].activations - reading.activations, axis=1)
            # Chunks sum in another order, in float32; of a row's norm.
            assert float((apart / reading.norms).max()) < 1e-5


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_allocation_that_fails_once_changes_nothing(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any]
) -> None:
    engine, memory = _engine(pairs, targets, settings), TightMemory()
    _submit(engine)
    expected = _drive(engine, lambda found: step(engine, found))
    number = 0

    def one(found: dict[str, Brought]) -> None:
        nonlocal number
        number += 1
        with memory.armed(the_nth(number * 37 % 151)):
            step(engine, found)

    _submit(engine)
    found = _drive(engine, one)
    assert engine.stats().out_of_memory > 10
    assert found.keys() == expected.keys() and all(f.num_finished == 1 for f in found.values())
    for name, brought in found.items():
        assert _said(brought) == _said(expected[name]), name
    _assert_same_rows(found["c"], expected["c"])


class _Reads:
    """No memory for passes over texts of a marked length, in whatever parts."""

    def __init__(self, engine: Engine, memory: TightMemory, length: int, at: int) -> None:
        assert engine.target is not None
        reader = engine.target.reader
        packed, chunk = reader.read_packed, reader.read_chunk
        self.memory = memory

        def tight_packed(texts: list[TextToRead], layer_index: int) -> Any:
            with self._armed(any(len(text.token_ids) == length for text in texts)):
                return packed(texts, layer_index)

        def tight_chunk(long: LongText, num_tokens: int | None = None) -> Any:
            is_marked = len(long.text.token_ids) == length and long.num_read >= at
            with self._armed(is_marked):
                return chunk(long, num_tokens)

        reader.read_packed, reader.read_chunk = tight_packed, tight_chunk  # type: ignore[method-assign]

    def _armed(self, refuses: bool) -> Any:
        return self.memory.armed(larger_than(0 if refuses else 1 << 30))


@pytest.mark.parametrize(("length", "at", "failed", "settings"), [
    (9, 0, {"c": (0,)}, SETTINGS[0]),
    (70, 32, {"c": (2,)}, SETTINGS[1]),
    (11, 0, {"e": ()}, SETTINGS[1]),
    (40, 0, {"w2": ()}, SETTINGS[0]),
    (40, 32, {"w2": ()}, SETTINGS[1]),
])  # fmt: skip
def test_a_text_that_never_fits_fails_alone(
    pairs: dict[str, Pair], targets: dict[str, Path], length: int, at: int,
    failed: dict[str, tuple[int, ...]], settings: dict[str, Any],
) -> None:  # fmt: skip
    """A captured one as a reading with an error; one that is all of a call ends that call."""
    engine = _engine(pairs, targets, settings)
    _submit(engine)
    expected = run(engine)
    _Reads(engine, TightMemory(), length, at)
    _submit(engine)
    errors: dict[str, str] = {}

    def one(found: dict[str, Brought]) -> None:
        take_step = engine.step

        def noted() -> Any:
            out = take_step()
            assert out.failed.keys() <= set(out.finished)
            errors.update({name: error.reason for name, error in out.failed.items()})
            return out

        engine.step = noted  # type: ignore[method-assign]
        step(engine, found)
        engine.step = take_step  # type: ignore[method-assign]

    found = _drive(engine, one)
    (name,) = failed
    assert errors == ({} if name == "c" else {name: "OUT_OF_MEMORY"})
    for other in expected.keys() - {name}:
        assert _said(found[other]) == _said(expected[other])
    assert all(brought.num_finished == 1 for brought in found.values())
    # Texts that shared a half with it fail too: half of a pass is the smallest that is tried.
    bad = {r.index for r in found["c"].readings if r.error is not None}
    assert set(failed.get("c", ())) <= bad and len(bad) <= 2
    _assert_same_rows(found["c"], expected["c"], tuple(bad))
    if name == "w2":
        assert [end.finish_reason for end in found["w2"].ends] == ["error"]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("everything", [False, True])
def test_watches_whose_step_never_fits_fail_alone(
    pairs: dict[str, Pair], targets: dict[str, Path], settings: dict[str, Any], everything: bool
) -> None:
    """The upper half of the rows, or all; what was captured before is explained all the same."""
    engine, memory = _engine(pairs, targets, settings), TightMemory()
    _submit(engine)
    expected = run(engine)
    assert engine.target is not None and engine.target.generator is not None
    graphs = engine.target.generator.graphs
    run_step, began = graphs.run, 0

    def tight(shape: StepShape, first: int = 0) -> None:
        nonlocal began
        whole = first == 0 and shape.num_rows >= 3
        began += whole
        is_tight = began >= 3 and (everything or first > 0 or whole)
        with memory.armed(larger_than(0 if is_tight else 1 << 30)):
            run_step(shape, first)

    graphs.run = tight  # type: ignore[method-assign]
    _submit(engine)
    found = _drive(engine, lambda found: step(engine, found))
    ends = {name: [end.finish_reason for end in found[name].ends] for name in ("w0", "w1", "w2")}
    failed = [name for name, reasons in ends.items() if reasons == ["error"]]
    # The upper half of three rows, or of the four that is a listed size.
    upper = ["w2"] if settings else ["w1", "w2"]
    assert failed == (["w0", "w1", "w2"] if everything else upper)
    for name, brought in expected.items():
        if name not in failed:
            assert _said(found[name]) == _said(brought)
        else:
            tokens = [t.token_id for t in found[name].tokens]
            assert tokens == [t.token_id for t in brought.tokens][: len(tokens)]
            assert len(found[name].explanations) == len(found[name].captured)
