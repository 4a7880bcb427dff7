"""What the AR's output makes of explanations and texts: evidence, a vector, or an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from torch import Tensor

from gloss_engine.ar.scorer import Score
from gloss_engine.av.flags import score_flags
from gloss_engine.errors import NON_FINITE_OUTPUT, ItemError
from gloss_engine.request import Explanation, TextResult


@dataclass(kw_only=True)
class Scored:
    """What one run of the AR brought."""

    explanations: list[Explanation] = field(default_factory=list)
    texts: list[TextResult] = field(default_factory=list)

    def add(self, result: Explanation | TextResult) -> None:
        """One result more."""
        if isinstance(result, Explanation):
            self.explanations.append(result)
        else:
            self.texts.append(result)


def result_of(
    owner: Explanation | TextResult, vector: Tensor | None, score: Score | None
) -> Explanation | TextResult:
    """What the AR's output makes of an explanation or a text."""
    if score is not None and not math.isfinite(score.mse):
        return failed(owner, NON_FINITE_OUTPUT)
    if isinstance(owner, Explanation):
        return _with_evidence(owner, score)
    return _text_result(owner, vector, score)


def failed(owner: Explanation | TextResult, error: ItemError) -> Explanation | TextResult:
    """What becomes of an explanation that was to be scored, or a text, and could not be."""
    if isinstance(owner, TextResult):
        return replace(owner, error=error)
    return Explanation(
        request_id=owner.request_id,
        index=owner.index,
        sample=owner.sample,
        seed=owner.seed,
        error=error,
        place=owner.place,
    )


def _with_evidence(explanation: Explanation, score: Score | None) -> Explanation:
    if score is None:
        return explanation
    flags = (*explanation.flags, *score_flags(score.fve))
    return replace(explanation, cosine=score.cosine, mse=score.mse, fve=score.fve, flags=flags)


def _text_result(result: TextResult, vector: Tensor | None, score: Score | None) -> TextResult:
    if vector is None:
        error = ItemError(
            code="INVALID_ARGUMENT",
            reason="TEXT_TOO_LONG",
            message="the text with its template has more tokens than the AR runs; shorten it",
        )
        return replace(result, error=error)
    if score is not None:
        return replace(result, cosine=score.cosine, mse=score.mse, fve=score.fve)
    if not bool(vector.isfinite().all()):
        return replace(result, error=NON_FINITE_OUTPUT)
    return replace(result, reconstruction=vector.numpy())
