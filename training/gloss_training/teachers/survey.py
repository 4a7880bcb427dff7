"""What a run of questions will take, before the first of them is asked."""

from __future__ import annotations

import heapq
import math
from typing import Final

from gloss_training.teachers.answer_file import AnswerFile, question_key
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Estimate

NUM_COUNTED: Final = 16
"""Questions whose tokens the API counts; the others by their length."""


class Survey:
    """Goes through questions without holding them.

    Args:
        settings: who will be asked, and what it costs.
        answers: those that are answered already.
    """

    def __init__(self, settings: TeacherSettings, answers: AnswerFile) -> None:
        self._settings, self._answers = settings, answers
        self._to_ask: set[str] = set()
        self._num_questions = 0
        self._num_chars = 0
        self._sample: list[tuple[int, str]] = []

    def add(self, prompt: str) -> None:
        """Takes one question; the same one costs once."""
        self._num_questions += 1
        key = question_key(self._settings, prompt)
        if key in self._to_ask or self._answers.get(key) is not None:
            return
        self._to_ask.add(key)
        self._num_chars += len(prompt)
        # Those with the smallest hashes: a random sample, and the same every time.
        entry = (-int(key, 16), prompt)
        if len(self._sample) < NUM_COUNTED:
            heapq.heappush(self._sample, entry)
        else:
            heapq.heappushpop(self._sample, entry)

    def sample(self) -> list[str]:
        """A few of the questions that will be asked."""
        return [prompt for _, prompt in self._sample]

    def estimate(self, tokens_per_char: float, counted_by: str, usual_tokens: int) -> Estimate:
        """What they will take; see `estimate_of`."""
        return estimate_of(
            self._settings,
            num_questions=self._num_questions,
            num_to_ask=len(self._to_ask),
            input_tokens=math.ceil(self._num_chars * tokens_per_char),
            counted_by=counted_by,
            usual_tokens=usual_tokens,
        )


def estimate_of(
    settings: TeacherSettings,
    *,
    num_questions: int,
    num_to_ask: int,
    input_tokens: int,
    counted_by: str,
    usual_tokens: int,
) -> Estimate:
    """What questions will take.

    Args:
        settings: who is asked, and what it costs.
        num_questions, num_to_ask: all of them, and those that have no answer yet.
        input_tokens: of those to ask.
        counted_by: who has counted these.
        usual_tokens: of an answer.
    """
    num_out = num_to_ask * min(usual_tokens, settings.max_tokens)
    most_out = num_to_ask * settings.max_tokens
    minutes = [0.0]
    if settings.requests_per_minute:
        minutes.append(num_to_ask / settings.requests_per_minute)
    if settings.tokens_per_minute:
        minutes.append((input_tokens + num_out) / settings.tokens_per_minute)
    return Estimate(
        teacher=settings.name,
        num_questions=num_questions,
        num_answered=num_questions - num_to_ask,
        input_tokens=input_tokens,
        output_tokens=num_out,
        most_output_tokens=most_out,
        counted_by=counted_by,
        cost=_cost(settings, input_tokens, num_out),
        most_cost=_cost(settings, input_tokens, most_out),
        currency=settings.currency,
        minutes=max(minutes),
    )


def _cost(settings: TeacherSettings, num_in: int, num_out: int) -> float | None:
    if not settings.input_price and not settings.output_price:
        return None
    return (num_in * settings.input_price + num_out * settings.output_price) / 1e6
