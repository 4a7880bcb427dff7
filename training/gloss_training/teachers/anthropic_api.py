"""Anthropic's Messages API, by its own client library."""

from __future__ import annotations

from typing import Any, Final

import anthropic

from gloss_training.teachers.api import Reply, no_reply, told, whole
from gloss_training.teachers.bounded_reply import bounded_http
from gloss_training.teachers.settings import TeacherSettings

BASE_URL: Final = "https://api.anthropic.com"


class AnthropicApi:
    """See `ChatApi`.

    Args:
        settings: model, address, longest answer.
        key: the API key.
    """

    def __init__(self, settings: TeacherSettings, key: str) -> None:
        self._settings, self._key = settings, key
        # Retries are `attempts.py`'s, which knows the pace of all questions together.
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=settings.base_url or BASE_URL,
            max_retries=0,
            timeout=settings.timeout_s,
            http_client=bounded_http(anthropic),
        )

    async def send(self, prompt: str) -> Reply:
        """See `ChatApi`."""
        settings = self._settings
        # Not an argument of every version of the library.
        more = {} if settings.temperature is None else {"temperature": settings.temperature}
        with told(anthropic, self._key):
            message = await self._client.messages.create(
                model=settings.model,
                max_tokens=settings.max_tokens,
                messages=[{"role": "user", "content": prompt}],
                extra_body=more,
            )
        return _reply(message)

    async def count_tokens(self, prompt: str) -> int | None:
        """See `ChatApi`."""
        with told(anthropic, self._key):
            counted = await self._client.messages.count_tokens(
                model=self._settings.model, messages=[{"role": "user", "content": prompt}]
            )
        return whole(counted, "input_tokens")

    async def close(self) -> None:
        """See `ChatApi`."""
        await self._client.close()


def _reply(message: Any) -> Reply:
    """What a message says; the library hands on whatever came, so nothing of it is certain."""
    parts, usage = getattr(message, "content", None), getattr(message, "usage", None)
    if not isinstance(parts, list):
        raise no_reply(message)
    texts = [getattr(part, "text", None) for part in parts if getattr(part, "type", "") == "text"]
    reason = getattr(message, "stop_reason", None)
    return Reply(
        text="".join(text for text in texts if isinstance(text, str)),
        is_cut_off=reason in ("max_tokens", "model_context_window_exceeded"),
        is_refused=reason == "refusal",
        input_tokens=whole(usage, "input_tokens"),
        output_tokens=whole(usage, "output_tokens"),
    )
