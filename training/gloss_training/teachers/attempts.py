"""One question until it has a reply: backoff, Retry-After, and when to give up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from gloss_training.errors import TeacherError
from gloss_training.teachers.api import ApiError, ChatApi, Reply, Trouble
from gloss_training.teachers.pace import Pace
from gloss_training.teachers.settings import TeacherSettings


@dataclass
class Attempts:
    """Asks questions of one teacher.

    Attributes:
        num_attempts: calls made so far, those that failed included.
        num_in_a_row: questions that failed since the last reply.
        last_failure: what the last of them met.
        is_stopped: nothing more is asked; set by who has had enough.
    """

    api: ChatApi
    pace: Pace
    settings: TeacherSettings
    num_attempts: int = 0
    num_in_a_row: int = 0
    last_failure: str = ""
    is_stopped: bool = False

    async def ask(self, prompt: str, booked_tokens: int) -> Reply | None:
        """A reply; None where the question is refused, the teacher stayed out of reach, or whoever
        asks has stopped meanwhile.

        Args:
            prompt: the question.
            booked_tokens: about what it takes, the longest answer included.

        Raises:
            TeacherError: no question will do, or too many in a row had no reply.
        """
        for attempt in range(self.settings.max_attempts):
            await self.pace.turn(booked_tokens)
            if self.is_stopped:
                return None
            self.num_attempts += 1
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    reply = await self.api.send(prompt)
            except TimeoutError:
                self.last_failure = f"no answer within {self.settings.timeout_s:g} s"
                await self._back_off(attempt, None)
            except ApiError as error:
                self.last_failure = str(error)
                if error.trouble in (Trouble.CLOSED, Trouble.ABSENT):
                    raise TeacherError(f"{self._who} cannot be asked: {error}") from error
                if error.trouble is Trouble.REFUSED:
                    break
                await self._back_off(attempt, error.retry_after_s)
            else:
                self.num_in_a_row = 0
                if reply.input_tokens:
                    used = reply.input_tokens + reply.output_tokens
                    self.pace.correct(used - booked_tokens)
                return reply
        self.num_in_a_row += 1
        if self.num_in_a_row >= self.settings.max_failures:
            raise TeacherError(
                f"{self._who} has not answered {self.num_in_a_row} questions in a row; the last "
                f"failure: {self.last_failure}. What was answered is kept: give the same command "
                "again when the teacher is back"
            )
        return None

    async def _back_off(self, attempt: int, asked_for: float | None) -> None:
        """Waits before the next attempt; a server that says how long makes everybody wait."""
        settings = self.settings
        if asked_for is not None and asked_for > settings.max_retry_after_s:
            raise TeacherError(
                f"{self._who} asks to wait {asked_for:,.0f} s, expected at most "
                f"{settings.max_retry_after_s:,.0f} (max_retry_after_s). What was answered "
                "is kept: give the same command again later"
            )
        if asked_for is not None:
            self.pace.pause(asked_for)
        if attempt + 1 >= settings.max_attempts:
            return
        backoff = min(settings.max_backoff_s, settings.backoff_s * 2.0**attempt)
        # Not all at once again: between half and all of it.
        backoff *= random.uniform(0.5, 1.0)
        if asked_for is not None:
            backoff = max(backoff, asked_for)
        await self.pace.sleep(backoff)

    @property
    def _who(self) -> str:
        return f"teacher {self.settings.name}"
