"""Where the explanations of `gloss explain` and `gloss watch` come from: what a source must do.

`local_texts.py` runs an engine in this process, `service_texts.py` asks a server. Both bring the
client's events, so that what is shown and written does not depend on which of them it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from gloss_client import ExplainEvent, ItemError, WatchEvent
from gloss_engine.text_request import ExplainRequest, WatchRequest
from gloss_server.files.run_state import Option
from gloss_server.sources.explanation_options import ExplanationOptions
from gloss_server.terminal import RunProgress


@dataclass(frozen=True, kw_only=True)
class TextFailed:
    """A text that cannot be read; the last event of it. The others go on.

    Attributes:
        error: why.
    """

    error: ItemError


@dataclass(frozen=True, kw_only=True)
class TextEnded:
    """All of a text's explanations are there; the last event of it.

    Attributes:
        skip_counts: of a watch: generated tokens that were not explained, by reason.
    """

    skip_counts: dict[str, int] = field(default_factory=dict)


_OF_TEXT = re.compile(r"(input|text|positions)\b")
TextEvent = ExplainEvent | WatchEvent | TextFailed | TextEnded


@dataclass(frozen=True, kw_only=True)
class Came:
    """An event of a text.

    Attributes:
        row: the number under which the text was submitted.
        event: what happened. Explanations have a place; those of a text are numbered by their
            rank among its chosen positions.
    """

    row: int
    event: TextEvent


class TextRunner(Protocol):
    """Explains texts, several at once.

    Attributes:
        num_texts: texts to keep in flight at most.
        num_ahead: explanations to keep in flight, so that it never runs short.
        max_watch_tokens: most tokens that the target generates.
    """

    num_texts: int
    num_ahead: int
    max_watch_tokens: int

    def submit(self, row: int, request: ExplainRequest | WatchRequest) -> None:
        """Take a text; its seed is stated. What is wrong with the text alone comes as TextFailed.

        Raises:
            CommandError, GlossError: a request that would be refused whatever the text.
        """

    def advance(self) -> list[Came]:
        """Wait until something happened to what was submitted.

        Raises:
            CommandError: a request that is refused whatever the text.
            SourceLost: it cannot go on.
        """

    def close(self) -> None:
        """Give up what is in flight."""


class TextSource(Protocol):
    """A source of explanations that has not been opened."""

    def check(self, options: ExplanationOptions) -> None:
        """Refuse what cannot work before anything is read.

        Raises:
            CommandError, GlossError: what was got, what was expected.
        """

    def scores(self, options: ExplanationOptions) -> bool:
        """Whether explanations will be scored."""

    def deciding(self, options: ExplanationOptions) -> dict[str, Option]:
        """What of it decides rows, by its name on the command line; a rerun must have the same."""

    def open(
        self, options: ExplanationOptions, progress: RunProgress, max_watch_tokens: int = 0
    ) -> TextRunner:
        """Make it ready to run.

        Args:
            options: how explanations are made.
            progress: says what it waits for.
            max_watch_tokens: most tokens that a target is to generate; 0: it only reads.

        Raises:
            CommandError, GlossError: no target, or one that cannot do it.
        """


def is_of_text(field: str | None) -> bool:
    """Whether a refusal names the text, or positions that it does not have, as the fault."""
    return field is not None and _OF_TEXT.match(field) is not None
