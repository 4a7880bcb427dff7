"""Whether explanations are true, where the truth is known: every claim against the text so far.

FVE alone rewards invention, so these stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gloss_training.claims import Verdict


def truth_figures(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Pooled over explanations: shares of stated claims that are right, of facts recalled."""
    total = {
        name: sum(getattr(verdict, name) for verdict in verdicts)
        for name in Verdict.__dataclass_fields__
    }
    num_claims = total["num_facts"] + total["num_endings"]
    num_right = total["num_facts_right"] + total["num_endings_right"]
    return {
        "claim_precision": _share(num_right, num_claims),
        "fact_precision": _share(total["num_facts_right"], total["num_facts"]),
        "ending_precision": _share(total["num_endings_right"], total["num_endings"]),
        "facts_per_explanation": _share(total["num_facts"], len(verdicts)),
        "fact_recall": _share(total["num_recalled"], total["num_revealed"]),
        "unparsed_rate": _share(total["num_unparsed"], total["num_sentences"]),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
