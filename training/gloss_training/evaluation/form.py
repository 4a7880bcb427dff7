"""How long explanations are, and how many were never closed."""

from __future__ import annotations

import numpy as np

from gloss_training.evaluation.explaining import Explanations


def form_figures(explanations: Explanations) -> dict[str, float]:
    """Lengths in tokens, tags included, and the share without a closing tag."""
    lengths = np.array(explanations.num_tokens)
    return {
        "tokens_mean": float(lengths.mean()),
        "tokens_p95": float(np.quantile(lengths, 0.95)),
        "unclosed_rate": 1.0 - sum(explanations.is_closed) / len(explanations),
    }
