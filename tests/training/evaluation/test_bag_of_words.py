"""The ridge regression against its own normal equations, and what it can and cannot tell."""

import math

import pytest
import torch

from gloss_training.evaluation import bag_of_words
from gloss_training.evaluation.bag_of_words import fit_bag_of_words
from gloss_training.evaluation.fidelity import fve_of
from gloss_training.scoring import normalize, strict_baseline

WORDS = ("red", "blue", "green", "kite", "lamp", "drum", "park", "castle")


def texts_and_vectors(count: int, *, by_order: bool = False) -> tuple[list[str], torch.Tensor]:
    """Texts of three words; a vector is the sum of one of each word, or hangs on their order."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(3, len(WORDS), 24, generator=generator)
    texts, vectors = [], []
    for _ in range(count):
        chosen = torch.randperm(len(WORDS), generator=generator)[:3].tolist()
        texts.append(" ".join(WORDS[index] for index in chosen).capitalize() + ".")
        places = range(3) if by_order else [0, 0, 0]
        parts = [table[place, index] for place, index in zip(places, chosen, strict=True)]
        vectors.append(torch.stack(parts).sum(0) * float(torch.rand(1, generator=generator) + 1))
    return texts, torch.stack(vectors)


def test_weights_solve_the_normal_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_of_words, "PENALTIES", (7.0,))
    texts, vectors = texts_and_vectors(40)
    fitted = fit_bag_of_words(texts, vectors)
    columns = {word: fitted.words[word] for word in (*WORDS, ".")}
    counts = torch.zeros(40, len(columns), dtype=torch.float64)
    for row, text in enumerate(texts):
        for word in text.lower().replace(".", " .").split():
            counts[row, columns[word]] += 1
    centred = counts - counts.mean(0)
    wanted = normalize(vectors.double(), math.sqrt(24))
    expected = torch.linalg.solve(
        centred.T @ centred + 7.0 * torch.eye(len(columns)).double(),
        centred.T @ (wanted - wanted.mean(0)),
    )
    torch.testing.assert_close(fitted.weights, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fitted(texts), centred @ expected + wanted.mean(0))


def test_it_tells_sums_of_words_and_not_their_order() -> None:
    found = {}
    for by_order in (False, True):
        texts, vectors = texts_and_vectors(400, by_order=by_order)
        fitted = fit_bag_of_words(texts[:300], vectors[:300])
        baseline = strict_baseline(vectors[:300])
        found[by_order] = fve_of(fitted(texts[300:]), vectors[300:], baseline)
    assert found[False] > 0.9
    assert found[True] < 0.6


def test_words_of_one_text_are_no_columns_and_texts_about_nothing_give_a_strong_penalty() -> None:
    texts, vectors = texts_and_vectors(60)
    texts[3] += " Unheard."
    noise = torch.randn(60, 24, generator=torch.Generator().manual_seed(0))
    fitted = fit_bag_of_words(texts, noise)
    assert "unheard" not in fitted.words
    assert fitted.penalty == max(bag_of_words.PENALTIES)
    assert fit_bag_of_words(texts, vectors).penalty < max(bag_of_words.PENALTIES)
