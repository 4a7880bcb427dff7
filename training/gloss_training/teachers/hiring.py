"""The teacher that the settings name, with its key from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gloss_training.errors import ConfigError
from gloss_training.teachers.answer_file import AnswerFile
from gloss_training.teachers.api import NO_KEY, ChatApi, Reply
from gloss_training.teachers.api_teacher import ApiTeacher
from gloss_training.teachers.pace import Pace
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Teacher

_APIS: Final = {
    "anthropic": ("AnthropicApi", "ANTHROPIC_API_KEY"),
    "openai": ("OpenAiApi", "OPENAI_API_KEY"),
}
"""The class of each provider, in a module of its name, and the usual variable of its key."""


def hire_teacher(
    settings: TeacherSettings,
    answers: Path,
    *,
    max_dropped_share: float = 0.5,
    is_asked: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> Teacher:
    """A teacher behind an API; the tiny world's is made by the world (`WorldTeacher`).

    Args:
        settings: who.
        answers: the file of its replies.
        max_dropped_share: of explanations of no use before a run ends.
        is_asked: False: it only estimates, which takes no key and no connection; the estimate says
            what asking it lacks.
        environment: where the key is.

    Raises:
        ConfigError: one that is asked has no key, or no client library.
        TeacherError, DiskError: a file of replies that cannot be used.
    """
    api: ChatApi = _Unasked()
    lacks = ""
    try:
        make = _api(settings, environment)
    except ConfigError as error:
        if is_asked:
            raise
        lacks = str(error)
    else:
        api = make() if is_asked else api
    return ApiTeacher(
        settings=settings,
        api=api,
        lacks=lacks,
        answers=AnswerFile(answers),
        pace=Pace(settings.requests_per_minute, settings.tokens_per_minute),
        max_dropped_share=max_dropped_share,
    )


class _Unasked:
    """See `ChatApi`: one that is out of reach."""

    async def send(self, prompt: str) -> Reply:
        """See `ChatApi`; a teacher that only estimates is asked nothing."""
        raise AssertionError("a teacher that only estimates was asked")

    async def count_tokens(self, prompt: str) -> int | None:
        """See `ChatApi`: nobody counts."""
        return None

    async def close(self) -> None:
        """See `ChatApi`: nothing is open."""


def _api(settings: TeacherSettings, environment: Mapping[str, str]) -> Callable[[], ChatApi]:
    """What makes the client.

    Raises:
        ConfigError: no key, or no client library.
    """
    name, usual_variable = _APIS[settings.provider]
    variable = settings.api_key_env or usual_variable
    key = NO_KEY if variable == NO_KEY else environment.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"teacher {settings.name}: got no key in the environment variable {variable}, expected "
            "one; set it, or name another variable in api_key_env (NONE: a server that "
            "needs none)"
        )
    try:
        module: Any = import_module(f"gloss_training.teachers.{settings.provider}_api")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"provider {settings.provider} needs {error.name}: pip install 'gloss-nla[teachers]'"
        ) from error
    return partial(getattr(module, name), settings, key)
