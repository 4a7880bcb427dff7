"""Chat completions of OpenAI, or of any server that speaks them, by OpenAI's client library."""

from __future__ import annotations

from typing import Any, Final

import openai

from gloss_training.teachers.api import Reply, no_reply, told, whole
from gloss_training.teachers.bounded_reply import bounded_http
from gloss_training.teachers.settings import TeacherSettings

BASE_URL: Final = "https://api.openai.com/v1"


class OpenAiApi:
    """See `ChatApi`.

    Args:
        settings: model, address, longest answer.
        key: the API key.
    """

    def __init__(self, settings: TeacherSettings, key: str) -> None:
        self._settings, self._key = settings, key
        # Retries are `attempts.py`'s, which knows the pace of all questions together.
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url or BASE_URL,
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=bounded_http(openai),
        )
        own = "max_tokens" if settings.base_url else "max_completion_tokens"
        self._tokens_field = settings.max_tokens_field or own

    async def send(self, prompt: str) -> Reply:
        """See `ChatApi`."""
        settings = self._settings
        more: dict[str, Any] = {self._tokens_field: settings.max_tokens}
        if settings.temperature is not None:
            more["temperature"] = settings.temperature
        with told(openai, self._key):
            completion = await self._client.chat.completions.create(
                model=settings.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=more,
            )
        return _reply(completion)

    async def count_tokens(self, prompt: str) -> int | None:
        """See `ChatApi`: chat completions have no count."""
        return None

    async def close(self) -> None:
        """See `ChatApi`."""
        await self._client.close()


def _reply(completion: Any) -> Reply:
    """What a completion says; the library hands on whatever came, so nothing of it is certain."""
    choices, usage = getattr(completion, "choices", None), getattr(completion, "usage", None)
    said = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if not isinstance(choices, list) or said is None:
        raise no_reply(completion)
    text, reason = getattr(said, "content", None), getattr(choices[0], "finish_reason", None)
    return Reply(
        text=text if isinstance(text, str) else "",
        is_cut_off=reason == "length",
        is_refused=reason == "content_filter" or bool(getattr(said, "refusal", None)),
        input_tokens=whole(usage, "prompt_tokens"),
        output_tokens=whole(usage, "completion_tokens"),
    )
