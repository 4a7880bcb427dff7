"""The bag-of-words control: how much of an activation the words of a text tell without their order.

Ridge regression from word counts to the normalised activation:

    W = argmin |X W - Y|^2 + penalty |W|^2,   both centred on their means

X: counts of the words that two or more training texts hold, Y: activations scaled to norm sqrt(d).
The penalty is the best of a few on every tenth training text; then all of them are fitted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gloss_training.scoring import normalize, normalized_mse

MOST_WORDS: Final = 4096
PENALTIES: Final = (0.1, 1.0, 10.0, 100.0, 1000.0)
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_LEAST_TEXTS: Final = 2
_EVERY: Final = 10


@dataclass(frozen=True, kw_only=True)
class BagOfWords:
    """A fitted regression.

    Attributes:
        words: column of each word.
        weights: [words, d] float64.
        mean_counts: [words] float64.
        mean: [d] float64, of the normalised activations.
        penalty: the one that was chosen.
    """

    words: dict[str, int]
    weights: Tensor
    mean_counts: Tensor
    mean: Tensor
    penalty: float

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """n texts -> [n, d] float64 predictions of normalised activations."""
        return (_counts(texts, self.words) - self.mean_counts) @ self.weights + self.mean


def fit_bag_of_words(texts: Sequence[str], activations: Tensor) -> BagOfWords:
    """Fits the regression.

    Args:
        texts: n explanations, none of held-out rows; n at least 10.
        activations: [n, d] what they are of, raw.
    """
    words = _vocabulary(texts)
    counts = _counts(texts, words)
    wanted = normalize(activations.double(), math.sqrt(activations.shape[1]))
    is_probe = torch.arange(len(texts)) % _EVERY == 0
    fitted = _fit(counts[~is_probe], wanted[~is_probe], PENALTIES)
    probes = counts[is_probe] - counts[~is_probe].mean(0)
    mean = wanted[~is_probe].mean(0)
    losses = [
        float(normalized_mse(probes @ weights + mean, wanted[is_probe]).mean())
        for weights in fitted
    ]
    penalty = PENALTIES[losses.index(min(losses))]
    return BagOfWords(
        words=words,
        weights=_fit(counts, wanted, (penalty,))[0],
        mean_counts=counts.mean(0),
        mean=wanted.mean(0),
        penalty=penalty,
    )


def _vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """Columns of the commonest words, ties by the word."""
    seen = Counter(word for text in texts for word in set(_words(text)))
    common = sorted(
        (word for word, count in seen.items() if count >= _LEAST_TEXTS),
        key=lambda word: (-seen[word], word),
    )
    return {word: column for column, word in enumerate(common[:MOST_WORDS])}


def _counts(texts: Sequence[str], words: dict[str, int]) -> Tensor:
    """[n, words] float64."""
    counts = torch.zeros(len(texts), len(words), dtype=torch.float64)
    for row, text in enumerate(texts):
        for word, count in Counter(_words(text)).items():
            if word in words:
                counts[row, words[word]] = count
    return counts


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _fit(counts: Tensor, wanted: Tensor, penalties: Sequence[float]) -> list[Tensor]:
    """Weights [words, d] for each penalty, from one decomposition."""
    centred = counts - counts.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    turned = vectors.T @ (centred.T @ (wanted - wanted.mean(0)))
    return [vectors @ (turned / (values.clamp_min(0) + p)[:, None]) for p in penalties]
