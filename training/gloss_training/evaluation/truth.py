"""Whether explanations are true, where the truth is known: every claim against the text so far.

FVE alone rewards invention, so these stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gloss_training.world.claims import Verdict

TRUTH: Final = (
    *("claim_precision", "fact_precision", "ending_precision", "facts_per_explanation"),
    *("fact_recall", "unparsed_rate"),
)
"""Names of the figures."""


def truth_figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Pooled over explanations: shares of stated claims that are right, of facts recalled.

    A share of nothing is left out: who states nothing is neither right nor wrong.
    """
    total = {
        name: sum(getattr(verdict, name) for verdict in verdicts)
        for name in Verdict.__dataclass_fields__
    }
    num_claims = total["num_facts"] + total["num_endings"]
    num_right = total["num_facts_right"] + total["num_endings_right"]
    shares = (
        (num_right, num_claims),
        (total["num_facts_right"], total["num_facts"]),
        (total["num_endings_right"], total["num_endings"]),
        (total["num_facts"], len(verdicts)),
        (total["num_recalled"], total["num_revealed"]),
        (total["num_unparsed"], total["num_sentences"]),
    )
    return {n: part / whole for n, (part, whole) in zip(TRUTH, shares, strict=True) if whole}
