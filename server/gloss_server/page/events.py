"""The client's events as server-sent events. What one message of the service brought is one chunk.

What a model or a caller wrote stands in JSON strings, which hold no line's end: it cannot begin an
event of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from gloss_client import (
    Captured,
    Explanation,
    Skipped,
    StreamSummary,
    TargetEnd,
    TargetToken,
    TextDelta,
    TextOpened,
    WatchEvent,
    WatchSummary,
)
from gloss_server.files.explain_row import explain_row, place_row
from gloss_server.page.json_text import Json, json_text
from gloss_server.page.problem import Problem

Event = tuple[str, Json]


class EventWriter:
    """Events of one call.

    Args:
        request_id: the call's id.
        seed: of the draws.
    """

    def __init__(self, request_id: str, seed: int) -> None:
        self._request_id, self._seed = request_id, seed
        self._lists: dict[type, tuple[str, str, Callable[[Any], Json]]] = {
            Captured: ("captured", "places", _place),
            TextDelta: ("deltas", "deltas", _delta),
            Explanation: ("rows", "rows", self._row),
            TargetToken: ("tokens", "tokens", asdict),
            Skipped: ("skipped", "skipped", asdict),
        }

    def chunk(self, events: Sequence[WatchEvent], fingerprint: str | None) -> str:
        """What came together, in its order.

        Args:
            events: of an Explain or a Watch.
            fingerprint: of the checkpoints that answer.
        """
        return "".join(
            sse(name, values)
            for kind, group in groupby(events, type)
            for name, values in self._of(kind, group, fingerprint)
        )

    def _of(
        self, kind: type, group: Iterator[WatchEvent], fingerprint: str | None
    ) -> Iterator[Event]:
        if kind in self._lists:
            name, field, values = self._lists[kind]
            yield name, {field: [values(event) for event in group]}
            return
        for event in group:
            if isinstance(event, TextOpened):
                yield "opened", self._opened(event, fingerprint)
            else:
                assert isinstance(event, TargetEnd)
                yield "target_end", asdict(event)

    def _opened(self, event: TextOpened, fingerprint: str | None) -> Json:
        return {
            "token_ids": event.token_ids,
            "tokens": event.tokens,
            "seed": self._seed,
            "fingerprint": fingerprint,
            "request_id": self._request_id,
        }

    def _row(self, explanation: Explanation) -> Json:
        row = explain_row(explanation, 0, "0", self._seed) | {"activation": explanation.index}
        lag = explanation.lag_seconds
        return row if lag is None else row | {"lag_seconds": lag}


def _place(event: Captured) -> Json:
    return {"index": event.index} | place_row(event.place)


def _delta(event: TextDelta) -> Json:
    return {"index": event.index, "sample": event.sample, "text": event.text}


def end_event(summary: StreamSummary) -> str:
    """The last event of a stream that came to its end."""
    values = {
        "finish_counts": summary.finish_counts,
        "usage": asdict(summary.usage),
        "timings": asdict(summary.timings),
    }
    if isinstance(summary, WatchSummary):
        values["skip_counts"] = summary.skip_counts
    return sse("end", values)


def failed_event(problem: Problem) -> str:
    """The last event of a stream that broke off."""
    return sse("failed", problem.values())


def sse(name: str, values: Json) -> str:
    """One event."""
    return f"event: {name}\ndata: {json_text(values)}\n\n"
