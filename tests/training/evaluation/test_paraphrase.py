"""Retention is a share of FVE on the explanations that were reworded."""

from collections.abc import Sequence

import pytest
import torch

from gloss_training.evaluation.paraphrase import paraphrase_figures
from gloss_training.scoring import strict_baseline

VECTORS = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
TEXTS = [f"text {index}" for index in range(6)]
BASELINE = strict_baseline(VECTORS)


def read(texts: Sequence[str]) -> torch.Tensor:
    """Knows each text; of a reworded one it is half wrong, of a ruined one all."""
    rows = []
    for text in texts:
        vector = VECTORS[int(text[-1])]
        other = VECTORS[(int(text[-1]) + 1) % 6]
        rows.append(vector + other if text.startswith("new") else vector)
    return torch.stack(rows)


def test_the_share_is_of_the_reworded_ones_alone() -> None:
    figures, missing, reworded = paraphrase_figures(
        TEXTS,
        VECTORS,
        lambda texts: [f"new {i}" if i % 2 else None for i in range(len(texts))],
        read,
        BASELINE,
    )
    assert reworded == [None, "new 1", None, "new 3", None, "new 5"]
    assert missing == {}
    assert figures["reworded_share"] == 0.5
    assert 0.2 < figures["fve_reworded"] < 0.9
    assert figures["paraphrase_retention"] == pytest.approx(figures["fve_reworded"], rel=1e-5)


def test_no_fve_and_no_rewording_say_so() -> None:
    figures, missing, _ = paraphrase_figures(
        TEXTS, -VECTORS, lambda texts: list(texts), read, BASELINE
    )
    assert "nothing to keep a share of" in missing["paraphrase_retention"]
    assert figures["fve_reworded"] < 0
    figures, missing, _ = paraphrase_figures(
        TEXTS, VECTORS, lambda texts: [None] * len(texts), read, BASELINE
    )
    assert figures == {"reworded_share": 0.0}
    assert set(missing) == {"fve_reworded", "paraphrase_retention"}
