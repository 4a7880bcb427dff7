"""A judge for code that is not asynchronous: the RL stage's quality term."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gloss_training.passage import Passage
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

    def close(self) -> None:
        """Lets go of the teacher."""
        try:
            self._runner.run(self._teacher.close())
        finally:
            self._runner.close()
