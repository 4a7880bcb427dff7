"""A chat API as the asking sees it: one question, one reply, one kind of failure or another.

What follows from a failure (try again, leave the question, end the run) is `attempts.py`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from gloss_training.teachers.bounded_reply import EndlessReply
from gloss_training.teachers.settings import TeacherSettings

NO_KEY: Final = "NONE"
"""In place of a key, for a server that needs none."""

_MAX_SAID: Final = 300
_SECRET: Final = re.compile(r"\b(?:sk|key|pk)-[\w*.-]{4,}", re.IGNORECASE)
_CREDENTIALS: Final = re.compile(r"(?<=//)[^/@\s]+@")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a teacher answered.

    Attributes:
        text: all of its text.
        is_cut_off: it reached max_tokens.
        is_refused: the teacher declined, or a filter did.
        input_tokens, output_tokens: as the API counts them; 0 where it does not say.
    """

    text: str
    is_cut_off: bool = False
    is_refused: bool = False
    input_tokens: int = 0
    output_tokens: int = 0


class Trouble(Enum):
    """What kind of failure a call met."""

    BUSY = "busy"
    """Try again: overloaded, over a rate limit, out of reach, an error of the server's own."""
    REFUSED = "refused"
    """This question is no good; others may be."""
    CLOSED = "closed"
    """No question will do: a wrong key, no money."""
    ABSENT = "absent"
    """Nothing is at this address: no such model, or an API without this call."""


class ApiError(Exception):
    """A call that brought no reply.

    Attributes:
        trouble: what kind.
        retry_after_s: when the server says to try again; None where it does not.
    """

    def __init__(self, trouble: Trouble, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.trouble, self.retry_after_s = trouble, retry_after_s


class ChatApi(Protocol):
    """One provider's API."""

    async def send(self, prompt: str) -> Reply:
        """Ask one question, once.

        Raises:
            ApiError: no reply.
        """

    async def count_tokens(self, prompt: str) -> int | None:
        """Tokens of a question by the API's own count; None where it has none.

        Raises:
            ApiError: the count could not be had.
        """

    async def close(self) -> None:
        """Let go of connections."""


def trouble_of(status: int, said: str) -> Trouble:
    """What an HTTP status means, with what the error says."""
    if status in (401, 402, 403) or "insufficient_quota" in said or "credit balance" in said:
        return Trouble.CLOSED
    if status == 404:
        return Trouble.ABSENT
    if status in (408, 409, 425, 429) or status >= 500:
        return Trouble.BUSY
    return Trouble.REFUSED


def retry_after(headers: object) -> float | None:
    """Seconds of a Retry-After header; None where there is none, or a date."""
    get = getattr(headers, "get", None)
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(get(name)) * scale if get is not None else -1.0
        except (TypeError, ValueError):
            continue
        if 0.0 <= seconds < float("inf"):
            return seconds
    return None


@contextmanager
def told(library: Any, key: str) -> Iterator[None]:
    """Turns a client library's errors into ours; none of them repeats the key.

    Args:
        library: the module `anthropic` or `openai`, which name their errors alike.
        key: the API key.

    Raises:
        ApiError: a call inside brought no reply.
    """
    try:
        yield
    except library.APIStatusError as error:
        said = clean(error.message, key)
        # OpenAI's code says what the message may not: insufficient_quota.
        code = getattr(error, "code", None)
        raise ApiError(
            trouble_of(error.status_code, f"{code} {said}"),
            f"HTTP {error.status_code}: {said}",
            retry_after(error.response.headers),
        ) from None
    except (library.APIConnectionError, EndlessReply) as error:
        # One library hands it on as it is, the other as the cause of an error of its own.
        met = error if isinstance(error, EndlessReply) else error.__cause__
        if isinstance(met, EndlessReply):
            raise ApiError(Trouble.REFUSED, str(met)) from None
        kind = type(met or error).__name__
        raise ApiError(Trouble.BUSY, f"it cannot be reached ({kind})") from None
    except (library.APIError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise no_reply(error) from None


def no_reply(got: object) -> ApiError:
    """What came is no reply: the page of a proxy, say."""
    return ApiError(Trouble.BUSY, f"it sent a reply that is none ({type(got).__name__})")


def whole(found: object, name: str) -> int:
    """A count of a reply's usage; 0 where it states none."""
    value = getattr(found, name, 0)
    return value if isinstance(value, int) else 0


def clean(said: str, key: str) -> str:
    """What a server said, on one line, without anything that looks like a key."""
    shown = " ".join(said.split())
    if key != NO_KEY:
        shown = shown.replace(key, "***")
    return _CREDENTIALS.sub("***@", _SECRET.sub("***", shown))[:_MAX_SAID]


def display_url(settings: TeacherSettings, default: str) -> str:
    """Where a teacher is, for people."""
    return _CREDENTIALS.sub("***@", settings.base_url or default)
