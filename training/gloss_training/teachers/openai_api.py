"""Chat completions of OpenAI, or of any server that speaks them, by OpenAI's client library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import openai

from gloss_training.teachers.api import (
    ApiError,
    Reply,
    Trouble,
    clean,
    retry_after,
    trouble_of,
)
from gloss_training.teachers.settings import TeacherSettings

BASE_URL: Final = "https://api.openai.com/v1"
KEY_VARIABLE: Final = "OPENAI_API_KEY"


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
        )
        own = "max_tokens" if settings.base_url else "max_completion_tokens"
        self._tokens_field = settings.max_tokens_field or own

    async def send(self, prompt: str) -> Reply:
        """See `ChatApi`."""
        settings = self._settings
        more: dict[str, Any] = {self._tokens_field: settings.max_tokens}
        if settings.temperature is not None:
            more["temperature"] = settings.temperature
        with _told(self._key):
            completion = await self._client.chat.completions.create(
                model=settings.model, messages=[{"role": "user", "content": prompt}], **more
            )
            choice, usage = completion.choices[0], completion.usage
            return Reply(
                text=choice.message.content or "",
                is_cut_off=choice.finish_reason == "length",
                is_refused=choice.finish_reason == "content_filter" or bool(choice.message.refusal),
                input_tokens=0 if usage is None else usage.prompt_tokens,
                output_tokens=0 if usage is None else usage.completion_tokens,
            )

    async def count_tokens(self, prompt: str) -> int | None:
        """See `ChatApi`: chat completions have no count."""
        return None

    async def close(self) -> None:
        """See `ChatApi`."""
        await self._client.close()


@contextmanager
def _told(key: str) -> Iterator[None]:
    """Turns the library's errors into ours; none of them repeats the key."""
    try:
        yield
    except openai.APIStatusError as error:
        said = clean(error.message, key)
        raise ApiError(
            trouble_of(error.status_code, f"{error.code} {said}"),
            f"HTTP {error.status_code}: {said}",
            retry_after(error.response.headers),
        ) from None
    except openai.APIConnectionError as error:
        kind = type(error.__cause__ or error).__name__
        raise ApiError(Trouble.BUSY, f"it cannot be reached ({kind})") from None
    except (
        *(openai.OpenAIError, json.JSONDecodeError),
        *(AttributeError, TypeError, IndexError),
    ) as error:
        # A reply that is no completion: the page of a proxy, say.
        kind = type(error).__name__
        raise ApiError(Trouble.BUSY, f"it sent a reply that is no completion ({kind})") from None
