"""A teacher behind an API: questions by the recipe, replies kept, costs told before."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from gloss_training.errors import TeacherError
from gloss_training.passage import Passage
from gloss_training.teachers.answer_file import AnswerFile
from gloss_training.teachers.api import ApiError, ChatApi, Reply, Trouble
from gloss_training.teachers.asking import CHARACTERS_PER_TOKEN, ask_all
from gloss_training.teachers.attempts import Attempts
from gloss_training.teachers.pace import Pace
from gloss_training.teachers.recipe import (
    USUAL_ANSWER_TOKENS,
    USUAL_SCORE_TOKENS,
    explain_prompt,
    judge_prompt,
    read_explanation,
    read_reworded,
    read_score,
    reword_prompt,
)
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.survey import Survey, estimate_of
from gloss_training.teachers.teacher import KEPT, UNANSWERED, Answer, Estimate

_LEAST_JUDGED: Final = 40
"""Answers after which a share of garbage means something."""
_USUAL_EXPLANATION_CHARS: Final = 600
_BY_LENGTH: Final = f"length, {CHARACTERS_PER_TOKEN} characters each"
_REMINDER: Final = (
    "\n\nAnswer with nothing but one number from 0 to 1 between <score> and </score>."
)


@dataclass(kw_only=True)
class ApiTeacher:
    """See `Teacher`.

    Attributes:
        settings: who it is.
        api: how it is asked.
        answers: replies so far.
        pace: how fast.
        max_dropped_share: of explanations that are no use before the run ends.
        lacks: what it cannot be asked without, for people; "" where there is nothing.
    """

    settings: TeacherSettings
    api: ChatApi
    answers: AnswerFile
    pace: Pace
    max_dropped_share: float = 0.5
    lacks: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    _unscored: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        # One for all of a judge's calls: a step asks less than tells that nobody is there.
        self._judging = Attempts(self.api, self.pace, self.settings)

    @property
    def name(self) -> str:
        """See `Teacher`."""
        return self.settings.name

    async def estimate(self, passages: Iterable[Passage]) -> Estimate:
        """See `Teacher`."""
        survey = Survey(self.settings, self.answers)
        for passage in passages:
            survey.add(explain_prompt(passage.text))
        tokens_per_char, counted_by = await self._count(survey.sample())
        estimate = survey.estimate(tokens_per_char, counted_by, USUAL_ANSWER_TOKENS)
        return replace(estimate, lacks=self.lacks)

    async def explain(
        self, passages: Iterable[Passage], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        """See `Teacher`."""

        def take(reply: Reply | None) -> None:
            answer = _answer(reply)
            self.outcomes[answer.outcome] += 1
            on_answer(answer)
            self._require_use()

        prompts = (explain_prompt(passage.text) for passage in passages)
        attempts = Attempts(self.api, self.pace, self.settings)
        return [_answer(r) for r in await ask_all(prompts, attempts, self.answers, take)]

    async def estimate_judging(self, passages: Sequence[Passage], num_pairs: int) -> Estimate:
        """See `Teacher`."""
        explanation = "x" * _USUAL_EXPLANATION_CHARS
        chars = [len(judge_prompt(passage.text, explanation)) for passage in passages]
        mean = sum(chars) / max(1, len(chars))
        return estimate_of(
            self.settings,
            num_questions=num_pairs,
            num_to_ask=num_pairs,
            input_tokens=math.ceil(num_pairs * mean / CHARACTERS_PER_TOKEN),
            counted_by=_BY_LENGTH,
            usual_tokens=USUAL_SCORE_TOKENS,
        )

    async def judge(self, pairs: Sequence[tuple[Passage, str]]) -> list[float]:
        """See `Teacher`. Garbage is asked about once more, then it is no score.

        Raises:
            TeacherError: it cannot go on, or gives hardly a score.
        """
        prompts = [judge_prompt(passage.text, explanation) for passage, explanation in pairs]
        scores = await self._scores(prompts)
        again = [index for index, score in enumerate(scores) if score is None]
        for index, score in zip(
            again, await self._scores([prompts[i] + _REMINDER for i in again]), strict=True
        ):
            scores[index] = score
        self._require_scores(scores)
        return [math.nan if score is None else score for score in scores]

    async def estimate_rewording(self, num_explanations: int) -> Estimate:
        """See `Teacher`."""
        chars = len(reword_prompt("x" * _USUAL_EXPLANATION_CHARS))
        return estimate_of(
            self.settings,
            num_questions=num_explanations,
            num_to_ask=num_explanations,
            input_tokens=math.ceil(num_explanations * chars / CHARACTERS_PER_TOKEN),
            counted_by=_BY_LENGTH,
            usual_tokens=USUAL_ANSWER_TOKENS,
        )

    async def reword(self, explanations: Sequence[str]) -> list[str | None]:
        """See `Teacher`."""
        attempts = Attempts(self.api, self.pace, self.settings)
        prompts = [reword_prompt(explanation) for explanation in explanations]
        replies = await ask_all(prompts, attempts, self.answers)
        return [
            None if reply is None or reply.is_cut_off else read_reworded(reply.text)
            for reply in replies
        ]

    async def close(self) -> None:
        """See `Teacher`."""
        try:
            await self.api.close()
        finally:
            self.answers.close()

    async def _scores(self, prompts: list[str]) -> list[float | None]:
        replies = await ask_all(prompts, self._judging, self.answers)
        return [None if reply is None else read_score(reply.text) for reply in replies]

    def _require_use(self) -> None:
        """Ends a run whose answers are garbage before all of them are paid for."""
        answered = self.outcomes.total() - self.outcomes[UNANSWERED]
        dropped = answered - self.outcomes[KEPT]
        if answered < _LEAST_JUDGED or dropped <= self.max_dropped_share * answered:
            return
        reasons = ", ".join(f"{count} {name}" for name, count in self.outcomes.most_common())
        raise TeacherError(
            f"teacher {self.name}: got {dropped} answers of no use among {answered} ({reasons}), "
            f"expected at most {self.max_dropped_share:.0%} (data.max_dropped_share). Its answers "
            f"are in {self.answers.path}: choose another model, or a larger teacher.max_tokens "
            "where they are truncated; where its server was at fault, remove them there to have "
            "them asked again"
        )

    def _require_scores(self, scores: Sequence[float | None]) -> None:
        """Ends a run whose judge gives hardly a score: what it says would count for nothing."""
        self._unscored += [score is None for score in scores]
        count, missing = len(self._unscored), sum(self._unscored)
        if count < _LEAST_JUDGED:
            return
        # A judge that is beside itself late is noticed as soon as an early one.
        self._unscored.clear()
        if missing > self.max_dropped_share * count:
            raise TeacherError(
                f"teacher {self.name}: got no score for {missing} of the last {count} "
                f"explanations, expected that of at most {self.max_dropped_share:.0%} "
                f"(data.max_dropped_share). Its answers are in {self.answers.path}: once it "
                "answers with a number from 0 to 1, remove the others there and go on"
            )

    async def _count(self, sample: list[str]) -> tuple[float, str]:
        """Tokens a character, and who has counted them."""
        by_length = (1 / CHARACTERS_PER_TOKEN, _BY_LENGTH)
        counted = 0
        for prompt in sample:
            try:
                count = await self.api.count_tokens(prompt)
            except ApiError as error:
                if error.trouble is Trouble.CLOSED or self._lacks_model(error):
                    raise TeacherError(f"teacher {self.name} cannot be asked: {error}") from error
                return by_length
            if count is None:
                return by_length
            counted += count
        if not sample:
            return by_length
        return counted / sum(map(len, sample)), f"the API, {len(sample)} questions of them"

    def _lacks_model(self, error: ApiError) -> bool:
        """Whether what is absent is the model; a server may lack the counting alone."""
        named = rf"(?<!\w){re.escape(self.settings.model)}(?!\w)"
        return error.trouble is Trouble.ABSENT and re.search(named, str(error)) is not None


def _answer(reply: Reply | None) -> Answer:
    if reply is None:
        return Answer(text="", outcome=UNANSWERED)
    return read_explanation(reply.text, is_cut_off=reply.is_cut_off, is_refused=reply.is_refused)
