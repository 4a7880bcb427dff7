"""Finished explanations that wait for the AR, and when it runs between decode steps.

The AR scores many texts at once or not at all: a batch is worth its pass over the weights, and a
pass between two steps delays everyone who decodes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gloss_engine.ar.scorer import Score, Scorer
from gloss_engine.av.flags import score_flags
from gloss_engine.request import Explanation


@dataclass(frozen=True, eq=False, kw_only=True)
class _Entry:
    explanation: Explanation
    activation: Tensor
    since_step: int


class ScoreQueue:
    """A queue in front of a scorer.

    Args:
        scorer: the AR's side.
        batch: texts scored at once, and the most between two steps.
        wait_steps: steps a text waits at most for a batch to fill.

    Attributes:
        num_scored: texts scored so far.
        seconds: time spent on them.
    """

    def __init__(self, scorer: Scorer, *, batch: int, wait_steps: int) -> None:
        self.scorer, self.batch, self.wait_steps = scorer, batch, wait_steps
        self.num_scored, self.seconds = 0, 0.0
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_tokens(self) -> int:
        """Tokens the AR has run."""
        return self.scorer.reconstructor.num_tokens

    def add(self, explanation: Explanation, activation: Tensor, step: int) -> None:
        """Queue an explanation with its activation [d_model]; `step` is the engine's count."""
        entry = _Entry(explanation=explanation, activation=activation, since_step=step)
        self._entries.append(entry)

    def drop(self, request_id: str) -> list[Explanation]:
        """Take a request's explanations out, unscored."""
        dropped = [e for e in self._entries if e.explanation.request_id == request_id]
        self._entries = [e for e in self._entries if e.explanation.request_id != request_id]
        return [entry.explanation for entry in dropped]

    def run(self, step: int, idle: bool) -> list[Explanation]:
        """Score one batch if it is full, overdue, or nothing else runs.

        Args:
            step: the engine's count of steps.
            idle: nothing decodes, so nobody is delayed.

        Returns:
            The explanations with their evidence.
        """
        if not self._entries:
            return []
        overdue = step - self._entries[0].since_step >= self.wait_steps
        if not (idle or overdue or len(self._entries) >= self.batch):
            return []
        started = time.perf_counter()
        entries, self._entries = self._entries[: self.batch], self._entries[self.batch :]
        texts = [entry.explanation.explanation for entry in entries]
        activations = torch.stack([entry.activation for entry in entries])
        scores = self.scorer.score(texts, activations)
        self.num_scored += len(entries)
        self.seconds += time.perf_counter() - started
        return [
            _with_evidence(entry.explanation, score)
            for entry, score in zip(entries, scores, strict=True)
        ]


def _with_evidence(explanation: Explanation, score: Score | None) -> Explanation:
    if score is None:
        return explanation
    flags = (*explanation.flags, *score_flags(score.fve))
    return replace(explanation, cosine=score.cosine, mse=score.mse, fve=score.fve, flags=flags)
