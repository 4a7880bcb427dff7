"""Whether a training change is accepted: four conditions, on three seeds, with their margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gloss_training.evidence.results import Result, of_arm

Figures = dict[str, float]
NUM_SEEDS: Final = 3
LEAST_GAIN: Final = 0.2
LEAST_PRECISION: Final = 0.85
SUBJECT: Final = "rl_kl"
"""The arm that is judged."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition.

    Attributes:
        says: in words.
        other: the arm that the subject is compared with; "" for none.
        value: figure of the subject and the other arm, one seed.
        bound: what it must reach; `is_most`: or stay under.
    """

    says: str
    other: str
    value: Callable[[Figures, Figures], float]
    bound: float
    is_most: bool = False


CONDITIONS: Final = (
    Condition(
        says="FVE gained over SFT",
        other="sft",
        value=lambda own, other: own["fve"] - other["fve"],
        bound=LEAST_GAIN,
    ),
    Condition(
        says="FVE gained over the AR trained alone",
        other="ar_only",
        value=lambda own, other: own["fve"] - other["fve"],
        bound=LEAST_GAIN,
    ),
    Condition(
        says="FVE with shuffled activations",
        other="",
        value=lambda own, other: own["fve_shuffled"],
        bound=0.0,
        is_most=True,
    ),
    Condition(
        says="FVE of a fresh AR gained over SFT",
        other="sft",
        value=lambda own, other: own["fve_fresh_ar"] - other["fve_fresh_ar"],
        bound=LEAST_GAIN,
    ),
    Condition(
        says="claim precision",
        other="",
        value=lambda own, other: own["claim_precision"],
        bound=LEAST_PRECISION,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a condition.

    Attributes:
        condition: which.
        values: by seed, of the seeds that have what it needs.
    """

    condition: Condition
    values: dict[int, float]

    @property
    def margins(self) -> dict[int, float]:
        """By how much each seed holds; negative where it fails."""
        sign = -1.0 if self.condition.is_most else 1.0
        return {s: sign * (v - self.condition.bound) for s, v in self.values.items()}

    @property
    def holds(self) -> bool | None:
        """On all seeds; None while there are fewer than three and none of them fails."""
        if any(margin < 0 for margin in self.margins.values()):
            return False
        return True if len(self.values) >= NUM_SEEDS else None


def judge_results(results: Sequence[Result]) -> list[Verdict]:
    """Every condition on every seed that has what it needs."""
    subject = of_arm(results, SUBJECT)
    verdicts = []
    for condition in CONDITIONS:
        others = of_arm(results, condition.other) if condition.other else subject
        values = {}
        for seed in sorted(subject.keys() & others.keys()):
            try:
                values[seed] = condition.value(subject[seed], others[seed])
            except KeyError:
                # The evaluation says why it has no such figure.
                continue
        verdicts.append(Verdict(condition=condition, values=values))
    return verdicts
