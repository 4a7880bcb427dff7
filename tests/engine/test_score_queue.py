"""When the AR runs between decode steps, how much of it at once, and when it is read."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from gloss_engine.engine import Engine
from gloss_engine.request import TextRequest, TextResult
from support.checkpoints import Pair
from support.engine_runs import activations, assert_idle, drain, request, small_engine

SCORED: dict[str, Any] = {"graphs": "on", "lag": 1, "num_slots": 12, "fve_baseline": 0.9}

NON_FINITE = "NON_FINITE_OUTPUT"


def _engine(pairs: dict[str, Pair], **settings: Any) -> Engine:
    return small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, **SCORED | settings)


@pytest.mark.parametrize("settings", [
    {}, {"score_budget_ms": 0.001}, {"score_budget_ms": 1000.0}, {"score_wait_steps": 0},
])  # fmt: skip
def test_the_same_evidence_with_a_lag_and_a_budget(
    pairs: dict[str, Pair], settings: dict[str, Any]
) -> None:
    plain = small_engine(pairs["qwen2"].av, pairs["qwen2"].ar, num_slots=12, fve_baseline=0.9)
    rows = activations(20, plain.facts.d_model)
    sent = request(rows, seed=1, max_new_tokens=12)
    expected = plain.verbalize(sent)
    engine = _engine(pairs, **settings)
    before = engine.stats()
    engine.warm_up()
    assert (engine.stats().ar_tokens, engine.stats().score_seconds) == (before.ar_tokens, 0.0)
    for want, got in zip(expected, engine.verbalize(sent), strict=True):
        assert got.token_ids == want.token_ids and want.cosine is not None
        assert got.cosine == pytest.approx(want.cosine, abs=1e-5)
        assert got.fve == pytest.approx(want.fve, abs=1e-4)
    assert engine.stats().scored == 20
    assert_idle(engine)


def _batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """Texts, tokens and whether anything decodes, of every run of the AR."""
    seen: list[tuple[int, int, bool]] = []
    assert engine.scores is not None
    reconstructor = engine.scores.scorer.reconstructor
    run = reconstructor.reconstruct_ids

    def noted(prompts: list[list[int]]) -> object:
        seen.append((len(prompts), sum(map(len, prompts)), engine.scheduler.has_work))
        return run(prompts)

    monkeypatch.setattr(reconstructor, "reconstruct_ids", noted)
    return seen


@pytest.mark.parametrize("tokens", [1, 60, 200])
def test_a_budget_bounds_what_runs_beside_decoding(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    """In tokens, at a rate held still: more than one text only within the budget."""
    engine = _engine(pairs, score_budget_ms=1.0, score_batch=16)
    assert engine.scores is not None
    monkeypatch.setattr(engine.scores, "_tokens_per_second", tokens * 1000.0)
    monkeypatch.setattr(engine.scores, "_learn", lambda batch: None)
    seen = _batches(engine, monkeypatch)
    rows = activations(30, engine.facts.d_model)
    engine.submit(request(rows[:1], temperature=0.0, max_new_tokens=150), "long")
    engine.submit(request(rows[1:], seed=1, max_new_tokens=4), "short")
    assert len(drain(engine)) == 30
    busy = [(texts, run) for texts, run, decoding in seen if decoding]
    assert all(run <= tokens or texts == 1 for texts, run in busy) and len(busy) > 3
    assert sum(texts for texts, _, _ in seen) == engine.stats().scored == 30
    if tokens == 200:
        assert max(texts for texts, _ in busy) > 3


def test_the_rate_is_learnt(pairs: dict[str, Pair]) -> None:
    """A budget of an hour takes whole batches, one of nothing single texts, after a first guess."""
    for budget, least in ((3.6e6, 12), (1e-6, 1)):
        engine = _engine(pairs, score_budget_ms=budget, score_batch=12, score_wait_steps=500)
        engine.warm_up()
        engine.submit(request(activations(1, 72), temperature=0.0, max_new_tokens=100), "long")
        engine.step()
        engine.submit_texts(TextRequest(texts=tuple(f"text {n}" for n in range(12))), "texts")
        assert engine.scores is not None
        engine.step()
        assert engine.scores._running is not None
        assert len(engine.scores._running.entries) == least


def test_decoding_goes_on_while_a_batch_runs(pairs: dict[str, Pair]) -> None:
    """It is read a step after it was started, when another step is on its way."""
    engine = _engine(pairs, score_batch=4)
    engine.submit(request(activations(1, 72), temperature=0.0, max_new_tokens=40), "long")
    engine.step()
    engine.submit_texts(TextRequest(texts=("a", "b", "c", "d")), "texts")
    assert not engine.step().texts
    out = engine.step()
    assert len(out.texts) == 4 and out.num_rows == 1
    drain(engine)


def test_what_the_ar_makes_no_number_of_fails_alone(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No NaN is handed out as evidence, with no flag to mark it; one in a histogram stays there."""
    engine = _engine(pairs)
    assert engine.scores is not None
    reconstructor = engine.scores.scorer.reconstructor
    run = reconstructor.reconstruct_ids

    def spoilt(prompts: list[list[int]]) -> Tensor:
        vectors = run(prompts)
        vectors[1, 5] = float("inf")
        return vectors

    monkeypatch.setattr(reconstructor, "reconstruct_ids", spoilt)
    rows = activations(3, engine.facts.d_model)
    explained = engine.verbalize(request(rows, seed=1, max_new_tokens=4))
    assert [one.error and one.error.reason for one in explained] == [None, NON_FINITE, None]
    assert explained[0].cosine is not None and explained[1].mse is None
    for compared in (None, rows):
        engine.submit_texts(TextRequest(texts=("a", "b", "c"), activations=compared))
        results: list[TextResult] = []
        while engine.has_work:
            results += engine.step().texts
        results.sort(key=lambda result: result.index)
        assert [one.error and one.error.reason for one in results] == [None, NON_FINITE, None]
        assert results[1].reconstruction is None and results[1].cosine is None
    assert engine.stats().item_errors == {NON_FINITE: 3}
    assert_idle(engine)


def test_cancelled_while_the_ar_runs(pairs: dict[str, Pair]) -> None:
    """The explanations come out once, at once and without evidence; others keep theirs."""
    engine = _engine(pairs, score_batch=4)
    rows = activations(6, engine.facts.d_model)
    engine.submit(request(rows[:2], temperature=0.0, max_new_tokens=3), "gone")
    engine.submit(request(rows[2:4], temperature=0.0, max_new_tokens=3), "kept")
    engine.submit(request(rows[4:], temperature=0.0, max_new_tokens=30), "long")
    assert engine.scores is not None
    while engine.scores._running is None:
        assert not engine.step().finished
    engine.cancel("gone")
    out = engine.step()
    assert "gone" in out.finished
    gone = [e for e in out.explanations if e.request_id == "gone"]
    assert len(gone) == 2 and all(e.cosine is None and e.error is None for e in gone)
    kept = [e for e in out.explanations if e.request_id == "kept"]
    assert len(kept) == 2 and all(e.cosine is not None for e in kept)
    assert len(drain(engine)) == 2
    assert_idle(engine)


def test_idle_batches_are_bounded_in_tokens(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is reserved for a full batch of explanations; a longer text still runs, alone."""
    engine = _engine(pairs, max_new_tokens=30, score_batch=4)
    assert engine.scores is not None and engine.scores.max_tokens == 4 * 40
    seen = _batches(engine, monkeypatch)
    texts = ("a b c d " * 25, *("e f g h " * 10,) * 6)
    engine.submit_texts(TextRequest(texts=texts), "texts")
    while engine.has_work:
        assert all(result.error is None for result in engine.step().texts)
    assert sum(count for count, _, _ in seen) == 7 and seen[0][:1] == (1,) and seen[0][1] > 160
    assert all(tokens <= 160 for _, tokens, _ in seen[1:])
