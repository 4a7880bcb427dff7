"""What the streams of Explain and Watch have said so far. One request each, so one piece."""

from __future__ import annotations

from typing import Any

from gloss_client import convert
from gloss_client.enums import FINISH_REASONS, SKIP_REASONS, name_of
from gloss_client.results import StreamSummary
from gloss_client.stream_state import Message, StreamEnds, explanation_events
from gloss_client.text_results import (
    Captured,
    ExplainEvent,
    Skipped,
    TargetEnd,
    TargetToken,
    TextOpened,
    WatchEvent,
    WatchSummary,
)


class _Captures:
    """Numbers activations in the order in which they are read."""

    def __init__(self) -> None:
        self._num_captured = 0

    def events(self, message: Any) -> list[Captured]:
        first, self._num_captured = self._num_captured, self._num_captured + len(message.captured)
        return [
            Captured(index=first + offset, place=convert.token_place(place))
            for offset, place in enumerate(message.captured)
        ]


class _Opening:
    """The text's tokens and their texts, which a long one brings in several messages."""

    def __init__(self) -> None:
        self._token_ids: tuple[int, ...] = ()
        self._tokens: list[str] = []

    def events(self, message: Any, token_ids: Any, tokens: Any) -> list[TextOpened]:
        begins = message.HasField("start")
        if begins:
            self._token_ids = tuple(token_ids)
        self._tokens.extend(tokens)
        num_missing = len(self._token_ids) - len(self._tokens)
        # A server that is older than the texts sends none.
        if (tokens and not num_missing) or (begins and not tokens):
            return [TextOpened(token_ids=self._token_ids, tokens=tuple(self._tokens))]
        return []


class ExplainState:
    """State of a text that is explained. See StreamState."""

    def __init__(self) -> None:
        self._ends, self._opening, self._captures = StreamEnds(), _Opening(), _Captures()

    @property
    def fingerprint(self) -> str | None:
        return self._ends.fingerprint

    def events(self, received: Message) -> list[ExplainEvent]:
        message = self._ends.read(received)
        if message is None:
            return []
        opened = self._opening.events(message, message.input_ids, message.input_tokens)
        return [*opened, *self._captures.events(message), *explanation_events(message)]

    def summary(self) -> StreamSummary:
        return self._ends.summary()


class WatchState:
    """State of a target that is watched. See StreamState."""

    def __init__(self) -> None:
        self._ends, self._opening, self._captures = StreamEnds(), _Opening(), _Captures()
        self._target_finish_reason: str | None = None
        self._skip_counts: dict[str, int] = {}

    @property
    def fingerprint(self) -> str | None:
        return self._ends.fingerprint

    def events(self, received: Message) -> list[WatchEvent]:
        message = self._ends.read(received)
        if message is None:
            return []
        for count in message.skip_counts:
            self._skip_counts[name_of(SKIP_REASONS, count.reason)] = count.count
        return [
            *self._opening.events(message, message.prompt_ids, message.prompt_tokens),
            *self._target_events(message),
            *self._captures.events(message),
            *(
                Skipped(position=token.position, reason=name_of(SKIP_REASONS, token.reason))
                for token in message.skipped
            ),
            *explanation_events(message),
        ]

    def summary(self) -> WatchSummary:
        ended = self._ends.summary()
        return WatchSummary(
            finish_counts=ended.finish_counts,
            usage=ended.usage,
            timings=ended.timings,
            target_finish_reason=self._target_finish_reason,
            skip_counts=dict(self._skip_counts),
        )

    def _target_events(self, message: Any) -> list[TargetToken | TargetEnd]:
        """What the target generated, and its end, which comes after its last token."""
        events: list[TargetToken | TargetEnd] = [
            TargetToken(position=token.position, token_id=token.token_id, text=token.text)
            for token in message.target_tokens
        ]
        if message.target_finish_reason:
            reason = name_of(FINISH_REASONS, message.target_finish_reason)
            self._target_finish_reason = reason
            events.append(TargetEnd(finish_reason=reason))
        return events
