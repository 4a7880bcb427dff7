"""A reader's place in a run, and the messages that take it further.

`StreamCursor.take` puts everything that has come since the last time into as few messages as their
size allows. A reader who comes late, or again, gets all from the beginning. What messages of
Explain and Watch have besides is in `text_stream.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.info import ModelInfo
from gloss_engine.request import Explanation
from gloss_server.front.run import Run
from gloss_server.front.writing import explanation_message, stream_end

MAX_MESSAGE_BYTES = 512 << 10
"""Messages are closed at this size; the contract promises under 1 MiB."""
_DELTA_BYTES = 24
_CONTEXT_TOKENS, _CHARACTER_TOKENS = 16, 4
"""Tokens that the text of those behind them may depend on; the most that one character takes."""
StreamMessage = pb.StreamVerbalizeResponse | pb.ExplainResponse | pb.WatchResponse


class TextStream:
    """Text of tokens as they come.

    Only whole characters leave: bytes of one that is not finished wait for the tokens after it.
    Decoding begins a few tokens back, since a token's text may depend on the one before.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = self._read = 0
        self._known = ""
        self.text = ""

    def continue_from(self, token_ids: Sequence[int]) -> None:
        """Begin behind these tokens, whose text is known elsewhere but for a character that they
        leave unfinished: that comes with the token that completes it."""
        self._ids = list(token_ids[-_CONTEXT_TOKENS:])
        end = len(self._ids)
        self._window = self._read = 0 if end < _CHARACTER_TOKENS else end
        for read in range(end, max(end - _CHARACTER_TOKENS, 0), -1):
            for window in range(read):
                known = self._decode(window, read)
                # Some decoders make all of a row of bytes U+FFFD for one end of it that is cut.
                if "\ufffd" not in (known[:1], known[-1:]):
                    self._window, self._read, self._known = window, read, known
                    return

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        self._ids.extend(token_ids)
        decoded = self._decode(self._window)
        if decoded.endswith("\ufffd") or not decoded.startswith(self._known):
            return ""
        added = decoded[len(self._known) :]
        self._window, self._read = self._read, len(self._ids)
        self._known = self._decode(self._window)
        self.text += added
        return added

    def rest(self) -> str:
        """What waits for a character to be finished, as far as it is one."""
        decoded = self._decode(self._window)
        return decoded[len(self._known) :] if decoded.startswith(self._known) else ""

    def rest_of(self, raw_text: str) -> str:
        """What is missing of the whole text, which is known now."""
        return raw_text[len(self.text) :] if raw_text.startswith(self.text) else ""

    def _decode(self, start: int, end: int | None = None) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=False)
        return text


class StreamCursor:
    """One reader's place in a run.

    Args:
        run: what is read.
        tokenizer: the AV's.

    Attributes:
        run: as given.
        is_at_end: the run's end has been taken.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self.run, self._tokenizer = run, tokenizer
        self._open: list[int] = []
        self._texts: dict[int, TextStream] = {}
        self._num_sent: list[int] = []
        self._num_explanations = 0
        self.is_at_end = False
        self._message = self._new_message()
        self._num_bytes = 0
        self._full: list[StreamMessage] = []

    def take(self, info: ModelInfo) -> list[StreamMessage]:
        """Messages with all that came since the last time; none if nothing did.

        Once the run has ended well the last one carries its end.
        """
        self._add_news()
        run, num_sent = self.run, self._num_sent
        # A text's sequences are known as its activations are read.
        self._open.extend(range(len(num_sent), run.num_sequences))
        num_sent.extend([0] * (run.num_sequences - len(num_sent)))
        finished = run.explanations[self._num_explanations :]
        last = {e.index * run.num_samples + e.sample: e for e in finished}
        for sequence in self._open:
            explanation = last.get(sequence)
            if explanation is not None or len(run.tokens[sequence]) > num_sent[sequence]:
                self._add_delta(sequence, explanation)
        if finished:
            self._open = [sequence for sequence in self._open if sequence not in last]
            for explanation in finished:
                self._add_explanation(explanation)
            self._num_explanations += len(finished)
        if run.has_ended and run.failure is None and not self.is_at_end:
            self.is_at_end = True
            self._add_end(info)
            self._num_bytes += 1
        if self._num_bytes:
            self._close_message()
        messages, self._full = self._full, []
        return messages

    def _new_message(self) -> StreamMessage:
        return pb.StreamVerbalizeResponse()

    def _add_news(self) -> None:
        """Add what came besides explanations; it goes before them."""

    def _add_end(self, info: ModelInfo) -> None:
        """Add the summary of a run that has ended well."""
        self._message.end.CopyFrom(stream_end(self.run, info))

    def _message_of(self, explanation: Explanation) -> pb.Explanation:
        return explanation_message(explanation)

    def _add_delta(self, sequence: int, explanation: Explanation | None) -> None:
        run = self.run
        sent = self._num_sent[sequence]
        text_stream = self._texts.get(sequence)
        if text_stream is None:
            text_stream = self._texts[sequence] = TextStream(self._tokenizer)
        if explanation is None:
            token_ids: Sequence[int] = run.tokens[sequence][sent:]
            text = text_stream.push(token_ids)
        else:
            token_ids = explanation.token_ids[sent:]
            text = text_stream.rest_of(explanation.raw_text)
            del self._texts[sequence]
            if not token_ids and not text:
                return
        self._num_sent[sequence] += len(token_ids)
        self._message.deltas.add(
            item_index=sequence // run.num_samples,
            sample_index=sequence % run.num_samples,
            token_ids=token_ids,
            text=text,
        )
        self._grow(_DELTA_BYTES + 5 * len(token_ids) + 4 * len(text))

    def _add_explanation(self, explanation: Explanation) -> None:
        message = self._message_of(explanation)
        self._message.explanations.append(message)
        self._grow(message.ByteSize() + 8)

    def _grow(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes >= MAX_MESSAGE_BYTES:
            self._close_message()

    def _close_message(self) -> None:
        self._full.append(self._message)
        self._message = self._new_message()
        self._num_bytes = 0
