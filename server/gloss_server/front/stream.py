"""A reader's place in a run, and the messages that take it further.

`StreamCursor.take` puts everything that has come since the last time into as few messages as their
size allows. A reader who comes late, or again, gets all from the beginning.
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

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens add."""
        self._ids.extend(token_ids)
        decoded: str = self._tokenizer.decode(self._ids[self._window :], skip_special_tokens=False)
        if decoded.endswith("\ufffd") or not decoded.startswith(self._known):
            return ""
        added = decoded[len(self._known) :]
        self._window, self._read = self._read, len(self._ids)
        self._known = self._tokenizer.decode(self._ids[self._window :], skip_special_tokens=False)
        self.text += added
        return added

    def rest_of(self, raw_text: str) -> str:
        """What is missing of the whole text, which is known now."""
        return raw_text[len(self.text) :] if raw_text.startswith(self.text) else ""


class StreamCursor:
    """One reader's place in a run.

    Args:
        run: what is read.
        tokenizer: the AV's.

    Attributes:
        is_at_end: the run's end has been taken.
    """

    def __init__(self, run: Run, tokenizer: Tokenizer) -> None:
        self._run, self._tokenizer = run, tokenizer
        self._open = list(range(run.num_sequences))
        self._texts: dict[int, TextStream] = {}
        self._num_sent = [0] * run.num_sequences
        self._num_explanations = 0
        self.is_at_end = False
        self._message = pb.StreamVerbalizeResponse()
        self._num_bytes = 0
        self._full: list[pb.StreamVerbalizeResponse] = []

    def take(self, info: ModelInfo) -> list[pb.StreamVerbalizeResponse]:
        """Messages with all that came since the last time; none if nothing did.

        Once the run has ended well the last one carries its end.
        """
        run, num_sent = self._run, self._num_sent
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
            self._message.end.CopyFrom(stream_end(run, info))
            self._num_bytes += 1
        if self._num_bytes:
            self._close_message()
        messages, self._full = self._full, []
        return messages

    def _add_delta(self, sequence: int, explanation: Explanation | None) -> None:
        run = self._run
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
        message = explanation_message(explanation)
        self._message.explanations.append(message)
        self._grow(message.ByteSize() + 8)

    def _grow(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes >= MAX_MESSAGE_BYTES:
            self._close_message()

    def _close_message(self) -> None:
        self._full.append(self._message)
        self._message = pb.StreamVerbalizeResponse()
        self._num_bytes = 0
