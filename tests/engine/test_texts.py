"""Texts through the engine: reconstructed and compared between decode steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gloss_engine import Engine, RequestError, TextRequest, TextResult
from support.checkpoints import Pair
from support.engine_runs import activations, assert_idle, request, small_engine

WIDTH = 72
TEXTS = ("a b c", "", "the cat sat on a mat", "x", "one two three four five six seven")


@pytest.fixture(scope="module")
def engine(pairs: dict[str, Pair]) -> Engine:
    pair = pairs["qwen2"]
    return small_engine(pair.av, pair.ar, score_batch=2, score_wait_steps=1)


def _drain(engine: Engine) -> dict[tuple[str, int], TextResult]:
    found: dict[tuple[str, int], TextResult] = {}
    finished: list[str] = []
    while engine.has_work:
        out = engine.step()
        for result in out.texts:
            assert (result.request_id, result.index) not in found, "a text came out twice"
            assert result.request_id not in finished, "a result after its request had finished"
            found[result.request_id, result.index] = result
        finished += out.finished
    return found


def test_reconstructions_are_those_of_the_ar_alone(engine: Engine) -> None:
    assert engine.scores is not None
    expected = engine.scores.scorer.reconstructor.reconstruct(TEXTS)
    engine.submit_texts(TextRequest(texts=TEXTS), "r")
    found = _drain(engine)
    assert sorted(found) == [("r", index) for index in range(len(TEXTS))]
    for index in range(len(TEXTS)):
        got = found["r", index].reconstruction
        assert got is not None and got.dtype == np.float32
        # Another batch, another order of float32 sums.
        np.testing.assert_allclose(got, expected[index].numpy(), rtol=1e-4, atol=1e-5)
        assert found["r", index].cosine is None and found["r", index].error is None


def test_comparisons_agree_with_the_scorer_while_others_decode(engine: Engine) -> None:
    assert engine.scores is not None
    given = activations(len(TEXTS), WIDTH)
    expected = engine.scores.scorer.score(TEXTS, given)
    engine.submit(request(activations(3, WIDTH), max_new_tokens=9, seed=3), "decoding")
    engine.submit_texts(TextRequest(texts=TEXTS, activations=given.numpy()), "s")
    found = _drain(engine)
    assert len(found) == len(TEXTS)
    for index, score in enumerate(expected):
        assert score is not None
        result = found["s", index]
        assert result.cosine == pytest.approx(score.cosine, abs=1e-5)
        assert result.mse == pytest.approx(score.mse, abs=1e-5)
        assert result.fve == pytest.approx(score.fve, abs=1e-4)
        assert result.reconstruction is None
    assert_idle(engine)


def test_a_bad_text_or_row_fails_alone(engine: Engine) -> None:
    given = torch.ones(4, WIDTH)
    given[1] = torch.nan
    given[2] = 0
    texts = ("a", "b", "c", "word " * 5000)
    before = engine.stats().item_errors.copy()
    engine.submit_texts(TextRequest(texts=texts, activations=given), "bad")
    found = _drain(engine)
    reasons = [error and error.reason for error in (found["bad", i].error for i in range(4))]
    assert reasons == [None, "NON_FINITE_VECTOR", "ZERO_VECTOR", "TEXT_TOO_LONG"]
    assert found["bad", 0].cosine is not None and found["bad", 3].cosine is None
    after = engine.stats().item_errors
    for reason in reasons[1:]:
        assert reason and after[reason] == before.get(reason, 0) + 1


def test_cancelled_texts_leave(engine: Engine) -> None:
    engine.submit_texts(TextRequest(texts=TEXTS), "gone")
    engine.cancel("gone")
    out = engine.step()
    assert out.finished == ["gone"] and len(out.texts) == len(TEXTS)
    assert all(result.reconstruction is None for result in out.texts)
    assert not engine.has_work


@pytest.mark.parametrize(
    ("texts", "given", "reason", "field"),
    [
        ((), None, "EMPTY_BATCH", "texts"),
        (("a", 3), None, "INVALID_TEXT", "texts[1]"),
        (("a", "b"), np.ones((1, WIDTH), np.float32), "LENGTH_MISMATCH", "texts"),
        (("a",), np.ones((1, WIDTH + 1), np.float32), "DIMENSION_MISMATCH", "activations"),
    ],
)
def test_requests_that_make_no_sense(
    engine: Engine, texts: tuple[str, ...], given: np.ndarray | None, reason: str, field: str
) -> None:
    with pytest.raises(RequestError) as caught:
        engine.submit_texts(TextRequest(texts=texts, activations=given))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert not engine.has_work


def test_without_an_ar(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    with pytest.raises(RequestError, match="no AR is loaded"):
        engine.submit_texts(TextRequest(texts=("a",)))
    assert engine.info is not None and engine.info.ar is None and engine.info.mse_scale is None


def test_what_is_loaded(engine: Engine) -> None:
    info = engine.info
    assert info is not None and info.ar is not None
    assert info.av.d_model == WIDTH and info.num_slots == engine.scheduler.num_slots
    assert info.av.fingerprint != info.ar.fingerprint and len(info.fingerprint) == 16
    assert "{explanation}" in info.ar.template
    assert (info.fve_baseline is None) == (info.baseline_source is None)


def test_long_texts_come_a_few_at_a_time(pairs: dict[str, Pair]) -> None:
    """Tokenizing one of 16,384 characters takes as long as a step; nobody waits for sixty-four."""
    pair = pairs["qwen2"]
    engine = small_engine(pair.av, pair.ar)
    engine.submit_texts(TextRequest(texts=("x y " * 4096,) * 10 + ("z",) * 10), "long")
    per_step = []
    while engine.has_work:
        per_step.append(len(engine.step().texts))
    assert sum(per_step) == 20 and per_step == [4, 4, 12]


def test_a_text_longer_than_a_batch_comes_alone(pairs: dict[str, Pair]) -> None:
    pair = pairs["qwen2"]
    engine = small_engine(pair.av, pair.ar)
    engine.submit_texts(TextRequest(texts=("a " * 50_000, "b")), "huge")
    assert [len(engine.step().texts) for _ in range(2)] == [1, 1]
    assert not engine.has_work
