"""A teacher's scores and rewordings for code that is not asynchronous: RL and evaluation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from gloss_training.dataset.rows import Rows
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.passage import Passage
from gloss_training.rl.rollout import Rollout
from gloss_training.teachers.teacher import Estimate, Teacher


class Judge:
    """Scores explanations by a teacher; a context manager, which lets go of it.

    Args:
        teacher: who judges.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        # One loop for all of it: a client's connections belong to the loop they were made in.
        self._runner = asyncio.Runner()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """Who judges."""
        return self._teacher.name

    def estimate(self, passages: Sequence[Passage], num_pairs: int) -> Estimate:
        """See `Teacher.estimate_judging`."""
        return self._runner.run(self._teacher.estimate_judging(passages, num_pairs))

    def scores(self, passages: Sequence[Passage], explanations: Sequence[str]) -> list[float]:
        """How well each explanation fits its passage, 0 to 1; NaN where there is no score.

        Raises:
            TeacherError: the judge cannot go on; what it has said is kept.
            DiskError: what it said could not be kept.
        """
        pairs = list(zip(passages, explanations, strict=True))
        return self._runner.run(self._teacher.judge(pairs))

    def estimate_rewording(self, num_explanations: int) -> Estimate:
        """See `Teacher.estimate_rewording`."""
        return self._runner.run(self._teacher.estimate_rewording(num_explanations))

    def reworded(self, explanations: Sequence[str]) -> list[str | None]:
        """The same facts in other words; None where there is no rewording.

        Raises:
            TeacherError, DiskError: as `scores`.
        """
        return self._runner.run(self._teacher.reword(explanations))

    def close(self) -> None:
        """Lets go of the teacher."""
        try:
            self._runner.run(self._teacher.close())
        finally:
            self._runner.close()


def rollout_judge(
    judge: Judge | None, rows: Rows, ranks: Ranks = ALONE
) -> Callable[[Rollout], Tensor]:
    """What scores a rollout about `rows`: [n] float32, NaN where there is no score.

    Nobody is asked about a response that is not valid. All ranks must call it, each with its own
    responses: rank 0 has all of them judged, and where it cannot, all raise the same error.

    Args:
        judge: rank 0's; None on the others.
        rows: that the rollouts are about.
        ranks: whose rollouts they are.
    """

    def judged_by_rank(questions: Sequence[Sequence[tuple[int, str]]]) -> list[list[float]]:
        """The scores of each rank's pairs of a row and an explanation."""
        assert judge is not None
        pairs = [pair for own in questions for pair in own]
        passages, texts = [rows.passage(row) for row, _ in pairs], [text for _, text in pairs]
        found = iter(judge.scores(passages, texts))
        return [list(islice(found, len(own))) for own in questions]

    def scores(rollout: Rollout) -> Tensor:
        about = rollout.rows.repeat_interleave(rollout.samples_per_prompt).tolist()
        asked = [index for index, is_valid in enumerate(rollout.is_valid) if is_valid]
        questions = ranks.collect([(about[index], rollout.explanations[index]) for index in asked])
        found: list[list[float]] = []
        ranks.first(lambda: found.extend(judged_by_rank(questions)))
        own = ranks.agree(found)[ranks.index]
        judged = torch.full((len(rollout),), math.nan)
        judged[torch.tensor(asked, dtype=torch.int64)] = torch.tensor(own)
        return judged

    return scores
