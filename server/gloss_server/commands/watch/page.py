"""A watch on a terminal: the model's text grows at the top, explanations of its tokens below it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from gloss_engine.text_request import TextInput
from gloss_server.display.evidence_cells import legend, mean_fve
from gloss_server.display.live_page import LivePage
from gloss_server.display.text_view import TextView
from gloss_server.display.token_table import TokenRow, rows_of, token_table, window
from gloss_server.sources.text_source import TextEvent
from gloss_server.terminal import print_page, visible

_SKIP_MEANINGS = {
    "every": "between every n-th",
    "max_pending": "too many were waiting for their explanations",
    "target_ended": "the model ended with it",
}
_TEXT_SHARE = 3
"""While it grows, text takes at most this part of the lines."""
_MARGIN = 2


class WatchPage:
    """Draws a watch while it runs, and prints all of it at its end.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._page = console, LivePage(console, self._live)
        self._view, self._prompt, self._seed = TextView(1), "", 0
        self._started = time.monotonic()
        self._ended: float | None = None

    def begin(self, prompt: TextInput, num_samples: int, seed: int) -> None:
        """See WatchShow."""
        self._view, self._prompt, self._seed = TextView(num_samples), prompt_text(prompt), seed
        self._started = time.monotonic()
        self._page.begin()

    def take(self, events: Sequence[TextEvent]) -> None:
        """See WatchShow."""
        for event in events:
            self._view.take(event)
        if self._ended is None and self._view.target_finish_reason is not None:
            self._ended = time.monotonic()
        self._page.touch()

    def end(self) -> None:
        """See WatchShow."""
        self._page.end()
        view = self._view
        notes = legend(view.made)
        parts: list[RenderableType] = [
            Padding(self._text(), (0, _MARGIN)),
            Text(),
            token_table(self._rows(), self._console.width, with_lag=True),
            Text(),
            *notes,
            *([Text()] if notes else []),
            self._spoken(),
            *self._skipped(),
            self._explained(),
        ]
        print_page(Group(*parts), self._console)

    def _live(self, num_lines: int) -> RenderableType:
        width = max(self._console.width - 2 * _MARGIN, 1)
        lines = list(self._text().wrap(self._console, width))[-max(num_lines // _TEXT_SHARE, 1) :]
        status = [self._spoken(), *self._skipped(), self._explained()]
        left = num_lines - len(lines) - len(status) - 2
        return Group(
            *(Padding(line, (0, _MARGIN)) for line in lines),
            Text(),
            window(self._rows(), self._console.width, left, with_lag=True),
            Text(),
            *status,
        )

    def _text(self) -> Text:
        """The prompt and what the model has made of it; a blank between them where words meet."""
        said = self._view.generated
        blank = " " if said[:1].isalnum() and self._prompt[-1:].isalnum() else ""
        return Text.assemble((_shown(self._prompt), "dim"), blank, (_shown(said), "bold"))

    def _rows(self) -> list[TokenRow]:
        """Explained tokens and skipped ones, in the order of the text."""
        texts = {token.position: token.text for token in self._view.tokens}
        skipped = [
            TokenRow(
                position=one.position,
                token=texts.get(one.position, ""),
                note=f"not explained: {_meaning(one.reason)}",
            )
            for one in self._view.skipped
        ]
        return sorted([*rows_of(self._view.said), *skipped], key=lambda row: row.position)

    def _spoken(self) -> Text:
        view, count = self._view, len(self._view.tokens)
        seconds = (self._ended or time.monotonic()) - self._started
        reason = view.target_finish_reason
        how = "" if reason is None else f", ended ({visible(reason)})"
        return Text(f"said      {count:,} tokens, {_rate(count, seconds)}{how}", style="dim")

    def _skipped(self) -> list[Text]:
        line = skipped_line(self._view.skip_counts)
        return [Text(line, style="dim")] if line else []

    def _explained(self) -> Text:
        made, told = self._view.made, f"{len(self._view.made):,} of {len(self._view.said):,}"
        lags = [one.lag_seconds for one in made if one.lag_seconds is not None]
        if lags:
            told += f", {statistics.median(lags):.2f} s later (at most {max(lags):.2f} s)"
        mean = mean_fve(made)
        if mean is not None:
            told += f", mean FVE {mean:.2f}"
        return Text(f"explained {told}, seed {self._seed}", style="dim")


def prompt_text(prompt: TextInput) -> str:
    """A prompt as people read it."""
    if prompt.messages is not None:
        return "\n".join(f"{role}: {content}" for role, content in prompt.messages) + "\n"
    return prompt.text or ""


def skipped_line(counts: Mapping[str, int]) -> str:
    """What was not explained and why; empty where everything was."""
    told = [f"{count:,} {reason} ({_meaning(reason)})" for reason, count in counts.items()]
    return visible(f"skipped   {', '.join(told)}") if told else ""


def _meaning(reason: str) -> str:
    return _SKIP_MEANINGS.get(reason, "a reason of a newer server")


def _shown(text: str) -> str:
    """Text of many lines: they stay lines, all else that a terminal obeys is an escape."""
    return "\n".join(map(visible, text.split("\n")))


def _rate(count: int, seconds: float) -> str:
    return f"{count / max(seconds, 1e-9):,.1f}/s"
