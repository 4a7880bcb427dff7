"""Runs of what a target reads first: what it has read, said and left out so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gloss_engine.text_request import OpenedText, Reading, SkippedToken, TokenPlace
from gloss_server.front.run import Run
from gloss_server.link.reading_parts import ReadingPart
from gloss_server.link.trace_context import TraceContext


class TextRun(Run):
    """Results of an Explain or a Watch as they arrive; its items are known as they are captured.

    Args:
        run_id, num_samples, max_new_tokens, seed, arrived, method, priority, trace: as for a Run.
        paths: the contract's names of the engine's fields, where they differ.

    Attributes:
        opened: the text as tokens, None before.
        places: of the activations that were read, by item.
        target_tokens: (position, token id) of what the target has generated.
        skipped: tokens that were not explained and are told one by one.
        skip_counts: all that were not, by reason.
        target_finish_reason: why the target ended; None before.
    """

    def __init__(
        self,
        *,
        run_id: int,
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        arrived: float,
        paths: Mapping[str, str],
        method: str = "Explain",
        priority: str = "interactive",
        trace: TraceContext | None = None,
    ) -> None:
        super().__init__(
            run_id=run_id,
            num_items=0,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            seed=seed,
            arrived=arrived,
            streams=True,
            method=method,
            priority=priority,
            trace=trace,
        )
        self.paths = paths
        self.opened: OpenedText | None = None
        self.places: list[TokenPlace] = []
        self._since: list[float] = []
        self.target_tokens: list[tuple[int, int]] = []
        self.skipped: list[SkippedToken] = []
        self.skip_counts: Counter[str] = Counter()
        self.target_finish_reason: str | None = None

    def open(self, opened: OpenedText) -> None:
        """The text is known as tokens."""
        self.opened = opened
        self.num_text_tokens = len(opened.token_ids)

    def capture(self, place: TokenPlace, at: float) -> None:
        """An activation was read, in a step that began then: one more item."""
        self.places.append(place)
        # A text's own wait for the target, too; what the target says later waits for nobody.
        self._since.append(self.arrived if place.position < self.num_text_tokens else at)
        self.num_items += 1
        self.tokens.extend([] for _ in range(self.num_samples))

    def generate(self, position: int, token_id: int) -> None:
        """The target has said a token."""
        self.target_tokens.append((position, token_id))
        self.num_target_tokens += 1

    def skip(self, skipped: SkippedToken) -> None:
        """A token will not be explained. What the caller chose to leave out is only counted."""
        self.skip_counts[skipped.reason] += 1
        if skipped.reason != "every":
            self.skipped.append(skipped)

    def waits_since(self, index: int) -> float:
        """See Run."""
        return self._since[index]

    @property
    def is_read(self) -> bool:
        """Whether the target is done with the text itself."""
        if self.opened is None or self.target_tokens:
            return self.opened is not None
        return 0 < len(self.opened.positions) <= len(self.places)

    @property
    def num_values(self) -> int:
        """See Run."""
        return self.num_text_tokens + self.num_target_tokens + self.num_items + len(self.skipped)

    async def until_opened(self) -> OpenedText:
        """Wait until the text is known as tokens.

        Raises:
            CallError: the run's failure.
        """
        async for _ in self.changes():
            if self.failure is not None:
                raise self.failure
            if self.opened is not None:
                return self.opened
        raise AssertionError("changes have no end")


class CaptureRun(Run):
    """Texts of a Capture that are in the engine together. One call reads it, and takes each
    reading away: rows are large.

    Args:
        run_id, arrived, trace: as for a Run.
        num_texts: how many.
    """

    def __init__(
        self, *, run_id: int, num_texts: int, arrived: float, trace: TraceContext | None = None
    ) -> None:
        super().__init__(
            run_id=run_id,
            num_items=num_texts,
            num_samples=0,
            max_new_tokens=0,
            seed=0,
            arrived=arrived,
            streams=False,
            trace=trace,
        )
        self.paths = {}
        self._readings: list[Reading] = []

    def read(self, part: ReadingPart) -> None:
        """A text was read, or why it could not be."""
        self._readings.append(part.reading)
        if part.is_last:
            self.num_text_tokens += len(part.reading.token_ids)

    def take(self) -> list[Reading]:
        """What has come since the last time."""
        readings, self._readings = self._readings, []
        return readings
