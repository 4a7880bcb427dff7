"""What an engine's steps bring of texts, as the events that a client of a server gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from gloss_client import (
    Captured,
    Explanation,
    ItemError,
    Skipped,
    TargetEnd,
    TargetToken,
    TextDelta,
    TextOpened,
    TokenPlace,
)
from gloss_engine import Explanation as EngineExplanation
from gloss_engine import ModelInfo, StepOutput
from gloss_engine import TokenPlace as EnginePlace
from gloss_engine.errors import ItemError as EngineError
from gloss_engine.request import TokenDelta
from gloss_server.front.stream import TextStream
from gloss_server.front.token_texts import TokenTexts
from gloss_server.sources.text_source import Came, TextEnded, TextEvent, TextFailed


@dataclass(kw_only=True)
class _Text:
    """A text in flight, and what its next tokens continue."""

    row: int
    spoken: TextStream
    growing: dict[tuple[int, int], TextStream] = field(default_factory=dict)
    skip_counts: Counter[str] = field(default_factory=Counter)


class EngineEvents:
    """Events of the texts of one engine.

    Args:
        info: of the engine, which has a target.
    """

    def __init__(self, info: ModelInfo) -> None:
        assert info.target_tokenizer is not None
        self._tokenizer = Tokenizer.from_str(info.tokenizer)
        self._target_tokenizer = Tokenizer.from_str(info.target_tokenizer)
        self._token_texts = TokenTexts(self._target_tokenizer)
        self._texts: dict[str, _Text] = {}

    def begin(self, request_id: str, row: int) -> None:
        """A request of the engine is the text of this number."""
        self._texts[request_id] = _Text(row=row, spoken=TextStream(self._target_tokenizer))

    def of(self, out: StepOutput) -> list[Came]:
        """What a step brought, in the order in which a server would tell it."""
        found = [
            Came(row=self._texts[request_id].row, event=event)
            for request_id, event in self._events(out)
        ]
        for request_id in out.finished:
            text = self._texts.pop(request_id)
            ended: TextEvent = TextEnded(skip_counts=dict(text.skip_counts))
            if request_id in out.failed:
                ended = TextFailed(error=item_error(out.failed[request_id]))
            found.append(Came(row=text.row, event=ended))
        return found

    def _events(self, out: StepOutput) -> Iterator[tuple[str, TextEvent]]:
        for opened in out.opened:
            self._texts[opened.request_id].spoken.continue_from(opened.token_ids)
            yield opened.request_id, TextOpened(token_ids=opened.token_ids)
        yield from self._target_events(out)
        for captured in out.captured:
            place = self._place(captured.place)
            yield captured.request_id, Captured(index=captured.index, place=place)
        for skipped in out.skipped:
            self._texts[skipped.request_id].skip_counts[skipped.reason] += 1
            # What the caller chose to leave out is only counted.
            if skipped.reason != "every":
                event = Skipped(position=skipped.position, reason=skipped.reason)
                yield skipped.request_id, event
        for delta in out.tokens:
            yield delta.request_id, self._delta(delta)
        for explanation in out.explanations:
            yield explanation.request_id, self._explanation(explanation)

    def _target_events(self, out: StepOutput) -> Iterator[tuple[str, TextEvent]]:
        """What targets have generated; a character that is never finished comes with the last."""
        ends = {end.request_id: end.finish_reason for end in out.target_ends}
        last = {token.request_id: token.position for token in out.target_tokens}
        for token in out.target_tokens:
            spoken = self._texts[token.request_id].spoken
            text = spoken.push((token.token_id,))
            if token.request_id in ends and token.position == last[token.request_id]:
                text += spoken.rest()
            event = TargetToken(position=token.position, token_id=token.token_id, text=text)
            yield token.request_id, event
        for request_id, reason in ends.items():
            yield request_id, TargetEnd(finish_reason=reason)

    def _delta(self, delta: TokenDelta) -> TextDelta:
        growing = self._texts[delta.request_id].growing
        key = (delta.index, delta.sample)
        text = growing.setdefault(key, TextStream(self._tokenizer)).push((delta.token_id,))
        return TextDelta(
            index=delta.index, sample=delta.sample, token_ids=(delta.token_id,), text=text
        )

    def _explanation(self, made: EngineExplanation) -> Explanation:
        self._texts[made.request_id].growing.pop((made.index, made.sample), None)
        error = None if made.error is None else item_error(made.error)
        assert made.place is not None
        return Explanation(
            index=made.index,
            sample=made.sample,
            explanation=made.explanation,
            raw_text=made.raw_text,
            token_ids=made.token_ids,
            logprob=made.logprob,
            finish_reason=made.finish_reason,
            cosine=made.cosine,
            mse=made.mse,
            fve=made.fve,
            flags=made.flags,
            error=error,
            place=self._place(made.place),
            lag_seconds=made.lag_seconds,
        )

    def _place(self, place: EnginePlace) -> TokenPlace:
        return TokenPlace(
            position=place.position,
            token_id=place.token_id,
            token=self._token_texts.of(place.token_id),
            norm=place.norm,
            layer_index=place.layer_index,
        )


def item_error(error: EngineError) -> ItemError:
    """Why an item failed, as the client says it."""
    return ItemError(code=error.code, reason=error.reason, message=error.message)
