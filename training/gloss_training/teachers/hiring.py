"""The teacher that the settings name, with its key from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from gloss_training.errors import ConfigError
from gloss_training.teachers.answer_file import AnswerFile
from gloss_training.teachers.api import NO_KEY, ChatApi
from gloss_training.teachers.api_teacher import ApiTeacher
from gloss_training.teachers.pace import Pace
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Teacher

_MODULES: Final = {"anthropic": "AnthropicApi", "openai": "OpenAiApi"}


def hire_teacher(
    settings: TeacherSettings,
    answers: Path,
    *,
    max_dropped_share: float = 0.5,
    environment: Mapping[str, str] = os.environ,
) -> Teacher:
    """A teacher behind an API; the tiny world's is made by the world (`WorldTeacher`).

    Args:
        settings: who.
        answers: the file of its replies.
        max_dropped_share: of explanations of no use before a run ends.
        environment: where the key is.

    Raises:
        ConfigError: no client library, or no key.
        TeacherError, DiskError: a file of replies that cannot be used.
    """
    api = _api(settings, environment)
    return ApiTeacher(
        settings=settings,
        api=api,
        answers=AnswerFile(answers),
        pace=Pace(settings.requests_per_minute, settings.tokens_per_minute),
        max_dropped_share=max_dropped_share,
    )


def _api(settings: TeacherSettings, environment: Mapping[str, str]) -> ChatApi:
    assert settings.provider in _MODULES
    try:
        module: Any = import_module(f"gloss_training.teachers.{settings.provider}_api")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"teacher.provider {settings.provider} needs {error.name}: "
            "pip install 'gloss-nla[teachers]'"
        ) from error
    variable = settings.api_key_env or module.KEY_VARIABLE
    key = NO_KEY if variable == NO_KEY else environment.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"teacher {settings.name}: got no key in the environment variable {variable}, expected "
            "one; set it, or name another variable in teacher.api_key_env (NONE: a server that "
            "needs none)"
        )
    api: ChatApi = getattr(module, _MODULES[settings.provider])(settings, key)
    return api
