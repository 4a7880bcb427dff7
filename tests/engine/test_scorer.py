"""Evidence: cosine, mse and FVE by their formulas, and an AR that cannot give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.ar.scorer import Scorer
from gloss_engine.config import EngineConfig
from gloss_engine.errors import CheckpointError
from gloss_engine.loading import load_engine
from gloss_kernels import Operations
from support.checkpoints import Pair
from support.edits import edit_sidecar
from support.engine_runs import activations


def _reconstructor(directory: Path) -> Reconstructor:
    return Reconstructor.load(
        directory,
        operations=Operations("reference"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@pytest.fixture(scope="module")
def reconstructor(pairs: dict[str, Pair]) -> Reconstructor:
    return _reconstructor(pairs["qwen2"].ar)


def test_formulas(reconstructor: Reconstructor) -> None:
    width = reconstructor.decoder.spec.d_model
    left, right = activations(30, width, seed=1), activations(30, width, seed=2)
    right[0], right[1], right[2] = left[0] * 40, -left[1] * 0.01, left[2] + 0.05 * right[2]
    scores = Scorer(reconstructor, 0.72).compare(left, right)
    for a, b, score in zip(left.double(), right.double(), scores, strict=True):
        cosine = float(a @ b / (a.norm() * b.norm()))
        assert score.cosine == pytest.approx(cosine, abs=1e-6)
        assert score.mse == pytest.approx(2 * (1 - cosine), abs=1e-6)
        assert score.fve == pytest.approx(1 - score.mse / 0.72, abs=1e-9)
        assert -1e-6 <= score.mse <= 4 + 1e-6
    # The same direction and the opposite one, whatever the lengths.
    assert (scores[0].cosine, scores[0].mse) == pytest.approx((1, 0), abs=1e-6)
    assert (scores[1].cosine, scores[1].mse) == pytest.approx((-1, 4), abs=1e-6)
    assert scores[2].fve is not None and 0.5 < scores[2].fve < 1


def test_another_mse_scale_rescales_the_mse(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path]
) -> None:
    directory = copy_of(pairs["qwen2"].ar)
    edit_sidecar(directory, lambda meta: meta["extraction"].update(mse_scale=3.0))
    scorer = Scorer(_reconstructor(directory), None)
    width = scorer.reconstructor.decoder.spec.d_model
    a, b = torch.zeros(1, width), torch.zeros(1, width)
    a[0, 0] = b[0, 1] = 5.0
    assert scorer.compare(a, b)[0].mse == pytest.approx(2 * 9 / width)


def test_texts_are_scored_by_their_reconstruction(reconstructor: Reconstructor) -> None:
    texts = ["a river", "", "42"]
    vectors = reconstructor.reconstruct(texts)
    scores = Scorer(reconstructor, 0.5).score(texts, vectors * 7)
    for score in scores:
        assert score is not None and score.cosine == pytest.approx(1, abs=1e-6)
    swapped = Scorer(reconstructor, 0.5).score(texts, vectors[[1, 2, 0]])
    assert all(score is not None and score.cosine < 0.999 for score in swapped)


def test_no_baseline_no_fve(reconstructor: Reconstructor) -> None:
    score = Scorer(reconstructor, None).score(["text"], torch.ones(1, 72))[0]
    assert score is not None and score.fve is None and score.mse > 0


def test_a_text_too_long_for_the_ar_has_no_score(reconstructor: Reconstructor) -> None:
    scores = Scorer(reconstructor, 0.5).score(["a", "42 " * 600, "b"], torch.ones(3, 72))
    assert [score is None for score in scores] == [False, True, False]
    alone = Scorer(reconstructor, 0.5).score(["b"], torch.ones(1, 72))[0]
    assert alone is not None and scores[2] is not None
    assert scores[2].cosine == pytest.approx(alone.cosine, abs=1e-5)


def test_an_ar_trained_on_raw_mse_is_refused(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path]
) -> None:
    directory = copy_of(pairs["qwen2"].ar)
    edit_sidecar(directory, lambda meta: meta["extraction"].update(mse_scale=None))
    with pytest.raises(CheckpointError, match="raw mse.*run without --ar"):
        load_engine(pairs["qwen2"].av, directory)


@pytest.mark.parametrize(
    ("ar", "av", "configured", "expected"),
    [
        (0.4, 0.5, 0.6, 0.4),
        (None, 0.5, 0.6, 0.5),
        (None, None, 0.6, 0.6),
        (None, None, None, None),
    ],
)
def test_where_the_baseline_comes_from(
    pairs: dict[str, Pair],
    copy_of: Callable[[Path], Path],
    ar: float | None,
    av: float | None,
    configured: float | None,
    expected: float | None,
) -> None:
    directories = {"av": copy_of(pairs["qwen2"].av), "ar": copy_of(pairs["qwen2"].ar)}
    for name, value in (("av", av), ("ar", ar)):
        if value is not None:
            edit_sidecar(
                directories[name],
                lambda meta, value=value: meta["extraction"].update(fve_baseline=value),
            )
    config = EngineConfig(device="cpu", fve_baseline=configured, num_slots=2)
    engine = load_engine(directories["av"], directories["ar"], config)
    assert engine.scores is not None
    assert engine.scores.scorer.fve_baseline == expected
