"""Settings of a teacher: who it is, how fast it may be asked, what it costs.

An API key is no setting: it is read from the environment variable that `api_key_env` names, and is
never written anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gloss_training.setting_checks import finite, not_negative, one_of, positive

PROVIDERS: Final = ("world", "anthropic", "openai")
_WEB_ADDRESS: Final = re.compile(r"https?://[^/\s]+", re.IGNORECASE)
TOKEN_FIELDS: Final = ("", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """One teacher.

    Attributes:
        provider: world (the tiny world's grammar), anthropic (its Messages API), or openai (chat
            completions of any server that speaks them).
        model: as the provider names it.
        base_url: "" for the provider's own.
        api_key_env: variable that holds the key; "" for the provider's usual one. A server of your
            own that needs no key takes NONE.
        max_tokens: longest answer; longer ones are cut off and dropped.
        max_tokens_field: what an openai server calls it; "" for max_completion_tokens where
            base_url is OpenAI's own and max_tokens elsewhere.
        temperature: None: the provider's default.
        concurrency: questions in flight.
        requests_per_minute, tokens_per_minute: 0: no limit. Tokens of questions and answers.
        timeout_s: of one question, its whole answer included.
        max_attempts: of one question, where the teacher is busy or out of reach.
        backoff_s, max_backoff_s: wait after the first failed attempt, doubled each time up to the
            most; a server's Retry-After comes first.
        max_retry_after_s: a teacher that asks to wait longer than this ends the run.
        max_failures: questions in a row that are refused or fail before the run ends.
        input_price, output_price: of a million tokens, in `currency`; 0: unknown.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    provider: str = "world"
    model: str = ""
    base_url: str = ""
    api_key_env: str = ""
    max_tokens: int = 300
    max_tokens_field: str = ""
    temperature: float | None = None
    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    timeout_s: float = 120.0
    max_attempts: int = 8
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    max_retry_after_s: float = 600.0
    max_failures: int = 20
    input_price: float = 0.0
    output_price: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        one_of("provider", self.provider, PROVIDERS)
        one_of("max_tokens_field", self.max_tokens_field, TOKEN_FIELDS)
        for name in (
            *("max_tokens", "concurrency", "timeout_s", "max_attempts", "max_failures"),
            *("max_backoff_s", "max_retry_after_s"),
        ):
            positive(name, getattr(self, name))
        for name in (
            *("requests_per_minute", "tokens_per_minute", "backoff_s"),
            *("input_price", "output_price"),
        ):
            not_negative(name, getattr(self, name))
        if self.temperature is not None:
            not_negative("temperature", self.temperature)
            finite("temperature", self.temperature)
        if self.base_url and not _WEB_ADDRESS.match(self.base_url):
            raise ValueError(
                f"base_url: got {self.base_url!r}, expected http:// or https:// and a host"
            )
        if self.provider != "world" and not self.model:
            raise ValueError(
                f"model: got none for {self.provider}, expected the name of one of its models"
            )

    @property
    def name(self) -> str:
        """The teacher, as a dataset names it."""
        return f"{self.provider} {self.model}".strip()
