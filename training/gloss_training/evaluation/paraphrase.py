"""Paraphrase retention: how much of the FVE is left when the same facts stand in other words.

A code hides in wordings; facts do not. So every explanation is rewritten in a way that keeps what
it states, and the AR reads the rewritten one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from torch import Tensor

from gloss_training.evaluation.fidelity import fve_of

LEAST_FVE: Final = 0.01
"""Below it there is nothing of which a share could be kept."""

Rewriter = Callable[[Sequence[str]], list[str | None]]
"""Explanations -> the same facts in other words; None where there is no rewording."""


def paraphrase_figures(
    texts: Sequence[str],
    activations: Tensor,
    rewrite: Rewriter,
    reconstruct: Callable[[Sequence[str]], Tensor],
    baseline: float,
) -> tuple[dict[str, float], dict[str, str], list[str | None]]:
    """FVE after a rewording, and the share of FVE kept, on the explanations that were reworded.

    Args:
        texts: n explanations.
        activations: [n, d] what they are of, raw.
        rewrite: who rewrites.
        reconstruct: the pair's AR.
        baseline: the strict one.

    Returns:
        Figures, why some are missing, and the rewordings.
    """
    reworded = rewrite(texts)
    kept = [index for index, text in enumerate(reworded) if text is not None]
    figures = {"reworded_share": len(kept) / len(texts)}
    if not kept:
        why = "no explanation was reworded"
        return figures, {"fve_reworded": why, "paraphrase_retention": why}, reworded
    same, wanted = [texts[index] for index in kept], activations[kept]
    before = fve_of(reconstruct(same), wanted, baseline)
    after = fve_of(reconstruct([reworded[index] or "" for index in kept]), wanted, baseline)
    figures["fve_reworded"] = after
    if before < LEAST_FVE:
        why = f"FVE before the rewording is {before:.3f}: there is nothing to keep a share of"
        return figures, {"paraphrase_retention": why}, reworded
    return {**figures, "paraphrase_retention": after / before}, {}, reworded
