"""A watch where stdout is no terminal: lines for people, or a JSON object for each event."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gloss_client import Explanation, Skipped, TargetEnd, TargetToken, TextOpened
from gloss_engine.text_request import TextInput
from gloss_server.commands.watch.page import prompt_text, skipped_line
from gloss_server.display.text_view import TextView
from gloss_server.display.token_table import shown_token
from gloss_server.files.explain_row import place_row
from gloss_server.files.result_row import result_row
from gloss_server.sources.text_source import TextEnded, TextEvent
from gloss_server.terminal import print_lines, visible


class WatchLines:
    """Lines for people: an explanation as it is finished, the target's text when it has ended."""

    def __init__(self) -> None:
        self._view = TextView(1)

    def begin(self, prompt: TextInput, num_samples: int, seed: int) -> None:
        """See WatchShow."""
        self._view = TextView(num_samples)
        print_lines([f"prompt: {visible(prompt_text(prompt))}", f"seed: {seed}"])

    def take(self, events: Sequence[TextEvent]) -> None:
        """See WatchShow."""
        for event in events:
            self._view.take(event)
        print_lines(line for event in events for line in self._lines(event))

    def end(self) -> None:
        """See WatchShow: everything was printed as it came."""

    def _lines(self, event: TextEvent) -> Iterator[str]:
        if isinstance(event, Explanation):
            yield _explained(event)
        elif isinstance(event, TargetEnd):
            yield f"the model said, and ended ({event.finish_reason}): " + visible(
                self._view.generated
            )
        elif isinstance(event, TextEnded):
            line = skipped_line(event.skip_counts)
            if line:
                yield line


class WatchJson:
    """A JSON object for each event: prompt, target_token, explanation, skipped, target_end, end.

    What an explanation has are the fields of a row of `gloss explain`, but for doc_id, and its lag.
    """

    def __init__(self) -> None:
        self._view, self._seed = TextView(1), 0

    def begin(self, prompt: TextInput, num_samples: int, seed: int) -> None:
        """See WatchShow."""
        self._view, self._seed = TextView(num_samples), seed

    def take(self, events: Sequence[TextEvent]) -> None:
        """See WatchShow."""
        for event in events:
            self._view.take(event)
        objects = [found for event in events if (found := self._object(event)) is not None]
        # Pure ASCII: line separators and terminal controls in hostile text stay escapes.
        print_lines(json.dumps(one, allow_nan=False) for one in objects)

    def end(self) -> None:
        """See WatchShow: everything was printed as it came."""

    def _object(self, event: TextEvent) -> dict[str, Any] | None:
        if isinstance(event, TextOpened):
            return {"event": "prompt", "token_ids": list(event.token_ids), "seed": self._seed}
        if isinstance(event, TargetToken):
            return {
                "event": "target_token",
                "position": event.position,
                "token_id": event.token_id,
                "text": event.text,
            }
        if isinstance(event, Skipped):
            return {"event": "skipped", "position": event.position, "reason": event.reason}
        if isinstance(event, TargetEnd):
            return {"event": "target_end", "finish_reason": event.finish_reason}
        if isinstance(event, Explanation):
            return {"event": "explanation"} | _row(event, self._seed)
        if isinstance(event, TextEnded):
            made = self._view.made
            return {
                "event": "end",
                "target_finish_reason": self._view.target_finish_reason,
                "explanations": len(made),
                "failed": sum(one.error is not None for one in made),
                "skip_counts": event.skip_counts,
            }
        return None


def _row(event: Explanation, seed: int) -> dict[str, Any]:
    assert event.place is not None
    row = result_row(event, event.index, seed, f", position {event.place.position}")
    return row | place_row(event.place) | {"lag_seconds": event.lag_seconds}


def _explained(event: Explanation) -> str:
    place = event.place
    assert place is not None
    lag = "" if event.lag_seconds is None else f"  {event.lag_seconds:.2f} s later"
    fve = "" if event.fve is None else f"  FVE {event.fve:.2f}"
    error = event.error
    said = event.explanation if error is None else f"{error.reason}: {error.message}"
    flags = f"  [{', '.join(event.flags)}]" if event.flags else ""
    head = f"{place.position:>4} {shown_token(place.token)}"
    return f"{head}: {visible(said)}{lag}{fve}{visible(flags)}"
