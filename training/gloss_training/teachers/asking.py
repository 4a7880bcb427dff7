"""Many questions, some at once: each reply is kept before the next question is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from gloss_training.errors import TrainingError
from gloss_training.teachers.answer_file import AnswerFile, question_key
from gloss_training.teachers.api import Reply
from gloss_training.teachers.attempts import Attempts

CHARACTERS_PER_TOKEN = 3.5
"""Of English, on the low side: budgets are rather too large than too small."""


class Asking:
    """One run of questions; see `ask_all`."""

    def __init__(
        self, attempts: Attempts, answers: AnswerFile, on_reply: Callable[[Reply | None], None]
    ) -> None:
        self._attempts, self._answers, self._on_reply = attempts, answers, on_reply
        self._in_flight: dict[str, asyncio.Future[Reply | None]] = {}
        self._stopped_by: TrainingError | None = None
        self.replies: dict[int, Reply | None] = {}

    async def run(self, prompts: Iterable[str], concurrency: int) -> None:
        """Asks all of them; ends early, with what is in flight answered, when it cannot go on.

        Raises:
            TeacherError, DiskError: why it cannot.
        """
        waiting = iter(enumerate(prompts))
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._work(waiting))
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _work(self, waiting: Iterator[tuple[int, str]]) -> None:
        for index, prompt in waiting:
            try:
                reply = await self._reply(prompt)
                self.replies[index] = reply
                self._on_reply(reply)
            except TrainingError as error:
                self._stopped_by = self._stopped_by or error
                # Others finish what they have asked, which is paid for, and ask nothing more.
                self._attempts.is_stopped = True
            if self._stopped_by is not None:
                return

    async def _reply(self, prompt: str) -> Reply | None:
        settings = self._attempts.settings
        key = question_key(settings, prompt)
        known = self._answers.get(key)
        if known is not None:
            return known
        if key in self._in_flight:
            return await self._in_flight[key]
        asked = asyncio.get_running_loop().create_future()
        self._in_flight[key] = asked
        reply: Reply | None = None
        try:
            booked = int(len(prompt) / CHARACTERS_PER_TOKEN) + settings.max_tokens
            reply = await self._attempts.ask(prompt, booked)
            if reply is not None:
                self._answers.add(key, reply)
        finally:
            del self._in_flight[key]
            if not asked.cancelled():
                asked.set_result(reply)
        return reply


async def ask_all(
    prompts: Iterable[str],
    attempts: Attempts,
    answers: AnswerFile,
    on_reply: Callable[[Reply | None], None] = lambda reply: None,
) -> list[Reply | None]:
    """Replies in the order of the questions; None where one had none.

    Args:
        prompts: taken one by one, as they are asked.
        attempts: asks them.
        answers: replies that are there are not asked for; new ones are added.
        on_reply: hears of each as it comes; a TeacherError of it ends the run.

    Raises:
        TeacherError: the teacher cannot go on, or `on_reply` has had enough.
        DiskError: a reply could not be kept.
    """
    asking = Asking(attempts, answers, on_reply)
    await asking.run(prompts, attempts.settings.concurrency)
    return [asking.replies[index] for index in range(len(asking.replies))]
