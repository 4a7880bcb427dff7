"""What streams of Explain and Watch say besides explanations: what was read, said and left out."""

from __future__ import annotations

from collections.abc import Sequence

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.info import ModelInfo
from gloss_engine.request import Explanation
from gloss_server.front.model import ServedModel
from gloss_server.front.stream import (
    MAX_MESSAGE_BYTES,
    StreamCursor,
    StreamMessage,
    TextStream,
)
from gloss_server.front.text_run import TextRun
from gloss_server.front.token_texts import TokenTexts
from gloss_server.front.writing import (
    FINISH_REASONS,
    SKIPPED,
    explanation_message,
    token_position,
)

TOKEN_FIELDS = {pb.ExplainResponse: "input_tokens", pb.WatchResponse: "prompt_tokens"}
"""Where a text's tokens stand as text."""
_PLACE_BYTES, _TARGET_TOKEN_BYTES, _SKIPPED_BYTES, _TEXT_BYTES = 40, 20, 12, 4
"""Of a message of each kind, without its text."""


def opening_messages(
    first: pb.ExplainResponse | pb.WatchResponse, token_ids: Sequence[int], texts: TokenTexts
) -> list[StreamMessage]:
    """The messages that open a stream: the first one, and those that its tokens' texts need more.

    Args:
        first: complete but for these texts.
        token_ids: the text's tokens.
        texts: of the target's tokens.
    """
    name = TOKEN_FIELDS[type(first)]
    messages: list[StreamMessage] = [first]
    held, num_bytes = getattr(first, name), first.ByteSize()
    for token_id in token_ids:
        text = texts.of(token_id)
        # The first message has one at least: who reads it knows by that that there are more.
        if num_bytes >= MAX_MESSAGE_BYTES and held:
            messages.append(type(first)())
            held, num_bytes = getattr(messages[-1], name), 0
        held.append(text)
        num_bytes += _TEXT_BYTES + 4 * len(text)
    return messages


class ExplainCursor(StreamCursor):
    """One reader's place in an Explain.

    Args:
        run: what is read.
        model: whose tokens they are, with the target whose tokens the text has.
    """

    def __init__(self, run: TextRun, model: ServedModel) -> None:
        super().__init__(run, model.tokenizer)
        assert model.target is not None
        self._text_run, self._target = run, model.target
        self._num_captured = 0

    def _new_message(self) -> StreamMessage:
        return pb.ExplainResponse()

    def _add_news(self) -> None:
        for place in self._text_run.places[self._num_captured :]:
            entry = token_position(place, self._target.texts)
            assert not isinstance(self._message, pb.StreamVerbalizeResponse)
            self._message.captured.append(entry)
            self._num_captured += 1
            self._grow(_PLACE_BYTES + 4 * len(entry.token))

    def _message_of(self, explanation: Explanation) -> pb.Explanation:
        message = explanation_message(explanation)
        if explanation.place is not None:
            place = token_position(explanation.place, self._target.texts)
            message.token_position.CopyFrom(place)
        return message


class WatchCursor(ExplainCursor):
    """One reader's place in a Watch. Its text goes on behind the prompt."""

    def __init__(self, run: TextRun, model: ServedModel) -> None:
        super().__init__(run, model)
        assert run.opened is not None
        self._text = TextStream(self._target.tokenizer)
        self._text.continue_from(run.opened.token_ids)
        self._num_target_tokens = self._num_skipped = 0
        self._has_target_end = False

    def _new_message(self) -> StreamMessage:
        return pb.WatchResponse()

    def _add_news(self) -> None:
        run = self._text_run
        self._add_target_tokens(run.target_tokens[self._num_target_tokens :])
        super()._add_news()
        for skipped in run.skipped[self._num_skipped :]:
            assert isinstance(self._message, pb.WatchResponse)
            self._message.skipped.add(position=skipped.position, reason=SKIPPED[skipped.reason])
            self._num_skipped += 1
            self._grow(_SKIPPED_BYTES)
        if run.target_finish_reason is not None and not self._has_target_end:
            self._has_target_end = True
            assert isinstance(self._message, pb.WatchResponse)
            self._message.target_finish_reason = FINISH_REASONS[run.target_finish_reason]
            self._grow(2)

    def _add_target_tokens(self, tokens: Sequence[tuple[int, int]]) -> None:
        run = self._text_run
        for position, token_id in tokens:
            text = self._text.push((token_id,))
            self._num_target_tokens += 1
            is_last = self._num_target_tokens == len(run.target_tokens)
            if is_last and run.target_finish_reason is not None:
                text += self._text.rest()
            assert isinstance(self._message, pb.WatchResponse)
            self._message.target_tokens.add(position=position, token_id=token_id, text=text)
            self._grow(_TARGET_TOKEN_BYTES + 4 * len(text))

    def _add_end(self, info: ModelInfo) -> None:
        super()._add_end(info)
        assert isinstance(self._message, pb.WatchResponse)
        for reason, count in self._text_run.skip_counts.items():
            self._message.skip_counts.add(reason=SKIPPED[reason], count=count)
