"""What is known of a text so far: its activations, and what has been said of each."""

from __future__ import annotations

from dataclasses import dataclass

from gloss_client import (
    Captured,
    Explanation,
    ItemError,
    Skipped,
    TargetEnd,
    TargetToken,
    TextDelta,
    TokenPlace,
)
from gloss_engine.av.explanation import OPENING_TAG, extract
from gloss_server.sources.text_source import TextEnded, TextEvent, TextFailed


@dataclass(kw_only=True)
class Said:
    """One explanation, from its first token to its evidence.

    Attributes:
        place: of the activation.
        sample: which of its explanations.
        raw: what was generated so far.
        made: the explanation, once it is finished.
    """

    place: TokenPlace
    sample: int
    raw: str = ""
    made: Explanation | None = None

    @property
    def growing(self) -> str:
        """What it says so far, without its tags."""
        raw = self.raw.lstrip()
        return "" if OPENING_TAG.startswith(raw) else extract(raw).text


class TextView:
    """A text, or a prompt with what the target has made of it.

    Args:
        num_samples: explanations of an activation.

    Attributes:
        said: of all activations that were read, in the order of their reading, sample by sample.
        tokens: what the target has generated.
        target_finish_reason: why it ended; None before.
        skipped: tokens that will not be explained, of those that are told one by one.
        skip_counts: all that were not, by reason; complete at the end.
        error: why the text could not be read.
        has_ended: nothing comes any more.
    """

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self.said: list[Said] = []
        self.tokens: list[TargetToken] = []
        self.target_finish_reason: str | None = None
        self.skipped: list[Skipped] = []
        self.skip_counts: dict[str, int] = {}
        self.error: ItemError | None = None
        self.has_ended = False

    def take(self, event: TextEvent) -> None:
        """Note an event of it."""
        if isinstance(event, Captured):
            self.said += [
                Said(place=event.place, sample=sample) for sample in range(self._num_samples)
            ]
        elif isinstance(event, TextDelta):
            self._of(event.index, event.sample).raw += event.text
        elif isinstance(event, Explanation):
            self._of(event.index, event.sample).made = event
        elif isinstance(event, TargetToken):
            self.tokens.append(event)
        elif isinstance(event, TargetEnd):
            self.target_finish_reason = event.finish_reason
        elif isinstance(event, Skipped):
            self.skipped.append(event)
            self.skip_counts[event.reason] = self.skip_counts.get(event.reason, 0) + 1
        elif isinstance(event, TextFailed):
            self.error, self.has_ended = event.error, True
        elif isinstance(event, TextEnded):
            self.skip_counts, self.has_ended = event.skip_counts, True

    @property
    def made(self) -> list[Explanation]:
        """Explanations that are finished."""
        return [said.made for said in self.said if said.made is not None]

    @property
    def generated(self) -> str:
        """What the target has said."""
        return "".join(token.text for token in self.tokens)

    def _of(self, index: int, sample: int) -> Said:
        return self.said[index * self._num_samples + sample]
