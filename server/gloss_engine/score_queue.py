"""Texts that wait for the AR, and when it runs between decode steps.

Explanations to score, texts to reconstruct and texts to compare are one thing to the AR: it runs
many at once or not at all, since a batch is worth its pass over the weights, and a pass between two
steps delays everyone who decodes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gloss_engine.ar.scorer import Score, Scorer
from gloss_engine.av.flags import score_flags
from gloss_engine.errors import ItemError
from gloss_engine.request import Explanation, TextResult

_BATCH_CHARS = 64 << 10
"""Characters run at once: 64 explanations of 200 tokens, or about 15 ms of tokenization."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Entry:
    """A text, with whose it is: an explanation to complete, or a place in a text request."""

    text: str
    activation: Tensor | None
    owner: Explanation | TextResult
    since_step: int


@dataclass(kw_only=True)
class Scored:
    """What one run of the AR brought."""

    explanations: list[Explanation] = field(default_factory=list)
    texts: list[TextResult] = field(default_factory=list)


class ScoreQueue:
    """A queue in front of a scorer.

    Args:
        scorer: the AR's side.
        batch: texts run at once, and the most between two steps.
        wait_steps: steps a text waits at most for a batch to fill.

    Attributes:
        num_scored: texts compared with an activation so far.
        seconds: time spent on the AR.
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
        self._entries.append(
            _Entry(
                text=explanation.explanation,
                activation=activation,
                owner=explanation,
                since_step=step,
            )
        )

    def add_text(self, result: TextResult, text: str, activation: Tensor | None, step: int) -> None:
        """Queue a text; `result` is what to fill in: a comparison, or without one the vector."""
        self._entries.append(
            _Entry(text=text, activation=activation, owner=result, since_step=step)
        )

    def drop(self, request_id: str) -> Scored:
        """Take a request's texts out as they are."""
        dropped = [e.owner for e in self._entries if e.owner.request_id == request_id]
        self._entries = [e for e in self._entries if e.owner.request_id != request_id]
        return Scored(
            explanations=[owner for owner in dropped if isinstance(owner, Explanation)],
            texts=[owner for owner in dropped if isinstance(owner, TextResult)],
        )

    def run(self, step: int, idle: bool) -> Scored:
        """Run one batch if it is full, overdue, or nothing else runs.

        Args:
            step: the engine's count of steps.
            idle: nothing decodes, so nobody is delayed.
        """
        out = Scored()
        if not self._entries:
            return out
        overdue = step - self._entries[0].since_step >= self.wait_steps
        if not (idle or overdue or len(self._entries) >= self.batch):
            return out
        started = time.perf_counter()
        count = self._batch_len()
        entries, self._entries = self._entries[:count], self._entries[count:]
        vectors, fitting = self.scorer.reconstruct([entry.text for entry in entries])
        rows = dict(zip(fitting, vectors, strict=True))
        scores = self._compare(entries, rows)
        for index, entry in enumerate(entries):
            if isinstance(entry.owner, Explanation):
                out.explanations.append(_with_evidence(entry.owner, scores.get(index)))
            else:
                out.texts.append(_text_result(entry.owner, rows.get(index), scores.get(index)))
        self.seconds += time.perf_counter() - started
        return out

    def _batch_len(self) -> int:
        """Entries of the next batch: fewer of long texts, whose tokenization alone takes time."""
        num_chars = 0
        for count, entry in enumerate(self._entries[: self.batch]):
            num_chars += len(entry.text)
            if num_chars > _BATCH_CHARS and count:
                return count
        return min(self.batch, len(self._entries))

    def _compare(self, entries: list[_Entry], rows: dict[int, Tensor]) -> dict[int, Score]:
        """Scores by entry, of those that have an activation and fit."""
        indices, activations = [], []
        for index, entry in enumerate(entries):
            if index in rows and entry.activation is not None:
                indices.append(index)
                activations.append(entry.activation)
        if not indices:
            return {}
        self.num_scored += len(indices)
        vectors = torch.stack([rows[index] for index in indices])
        scores = self.scorer.compare(vectors, torch.stack(activations))
        return dict(zip(indices, scores, strict=True))


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
    return replace(result, reconstruction=vector.cpu().numpy())
