"""Streams of Explain and Watch: items that appear meanwhile, the target's text, what is skipped."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.request import Explanation
from gloss_engine.text_request import OpenedText, SkippedToken, TokenPlace
from gloss_server.front.model import ServedModel
from gloss_server.front.stream import MAX_MESSAGE_BYTES, StreamCursor, TextStream
from gloss_server.front.text_run import TextRun
from gloss_server.front.text_stream import ExplainCursor, WatchCursor, opening_messages
from gloss_server.front.token_texts import TokenTexts
from gloss_server.settings import MOST_TEXT_TOKENS
from support.checkpoints import Pair
from support.front_parts import make_info

TEXT = "plain words, Größe, 日本語 and 👨‍👩‍👧‍👦 then more"


@pytest.fixture(scope="module")
def model(pairs: dict[str, Pair]) -> ServedModel:
    return ServedModel.of("m", make_info(pairs["qwen2"].av))


def _run(num_samples: int = 1) -> TextRun:
    return TextRun(
        run_id=1, num_samples=num_samples, max_new_tokens=50, seed=1, arrived=0.0, paths={}
    )


def _whole(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of tokens, without a character that they do not finish."""
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    return _whole(tokenizer, ids[:-1]) if text.endswith("\ufffd") else text


@pytest.mark.parametrize("kind", [pb.ExplainResponse, pb.WatchResponse])
@pytest.mark.parametrize("num_tokens", [1, 3000, MOST_TEXT_TOKENS])
def test_every_tokens_text_comes_first(model: ServedModel, kind: Any, num_tokens: int) -> None:
    """Under 1 MiB, also where the ids alone take most of it."""
    tokenizer = model.tokenizer
    ids = [index % tokenizer.get_vocab_size() for index in range(num_tokens)]
    ids_name, name = {
        pb.ExplainResponse: ("input_ids", "input_tokens"),
        pb.WatchResponse: ("prompt_ids", "prompt_tokens"),
    }[kind]
    first = kind(**{ids_name: [2**21 + 1] * num_tokens})
    first_of_all, *others = opening_messages(first, ids, TokenTexts(tokenizer))
    assert first_of_all is first and getattr(first, name)
    assert not any(getattr(message, ids_name) for message in others)
    texts = [text for message in (first, *others) for text in getattr(message, name)]
    assert texts == [tokenizer.decode([one], skip_special_tokens=False) for one in ids]
    assert all(message.ByteSize() < 1 << 20 for message in (first, *others))
    assert len(others) <= num_tokens // 2**15


class Source:
    """Feeds a run at random: a target that speaks, activations as they are read, explanations."""

    def __init__(self, tokenizer: Tokenizer, run: TextRun, seed: int) -> None:
        self.tokenizer, self.run, self.random = tokenizer, run, random.Random(seed)
        ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
        cut = self.random.randint(0, len(ids) - 1)
        self.prompt, self.said = ids[:cut], ids[cut:]
        run.open(OpenedText(request_id="1", token_ids=tuple(self.prompt), positions=()))
        self.num_said = 0
        self.ids: list[list[int]] = []
        self.at: list[int] = []
        self.open: list[int] = []

    def step(self) -> None:
        """What one step brings."""
        run = self.run
        if self.num_said < len(self.said):
            self._say()
        for sequence in [s for s in self.open if self.random.random() < 0.7]:
            if self.at[sequence] < len(self.ids[sequence]):
                run.tokens[sequence].append(self.ids[sequence][self.at[sequence]])
                self.at[sequence] += 1
            else:
                self._explain(sequence)
        if self.num_said == len(self.said) and not self.open:
            run.end(1.0)

    def _say(self) -> None:
        run, position = self.run, len(self.prompt) + self.num_said
        run.generate(position, self.said[self.num_said])
        if self.random.random() < 0.6:
            run.capture(TokenPlace(position, self.said[self.num_said], 1.5, 1), 0.0)
            for _ in range(run.num_samples):
                text = TEXT[: self.random.randint(0, 12)]
                self.ids.append(self.tokenizer.encode(text, add_special_tokens=False).ids)
                self.open.append(len(self.at))
                self.at.append(0)
        else:
            reason = self.random.choice(["every", "max_pending", "target_ended"])
            run.skip(SkippedToken(request_id="1", position=position, reason=reason))
        self.num_said += 1
        if self.num_said == len(self.said):
            run.target_finish_reason = "length"

    def _explain(self, sequence: int) -> None:
        index, sample = divmod(sequence, self.run.num_samples)
        self.open.remove(sequence)
        ids = self.ids[sequence]
        self.run.explanations.append(
            Explanation(
                request_id="1",
                index=index,
                sample=sample,
                seed=1,
                raw_text=self.tokenizer.decode(ids, skip_special_tokens=False),
                token_ids=tuple(ids),
                finish_reason="eos",
                place=self.run.places[index],
                lag_seconds=0.25,
            )
        )


class Reader:
    """Puts messages together, and holds them to the contract."""

    def __init__(self, cursor: StreamCursor, model: ServedModel) -> None:
        self.cursor, self.model = cursor, model
        self.target: list[tuple[int, int]] = []
        self.said = ""
        self.places: list[pb.TokenPosition] = []
        self.skipped: list[tuple[int, int]] = []
        self.finish_reasons: list[int] = []
        self.skip_counts: dict[int, int] = {}
        self.text: dict[tuple[int, int], str] = {}
        self.done: set[tuple[int, int]] = set()
        self.has_end = False

    def take(self) -> None:
        for message in self.cursor.take(self.model.info):
            assert isinstance(message, pb.WatchResponse) and not self.has_end
            assert message.ByteSize() < 1 << 20
            self.said += "".join(token.text for token in message.target_tokens)
            self.target += [(token.position, token.token_id) for token in message.target_tokens]
            self.places += message.captured
            self.skipped += [(one.position, one.reason) for one in message.skipped]
            if message.target_finish_reason:
                self.finish_reasons.append(message.target_finish_reason)
            self._explanations(message)
            assert bool(message.skip_counts) <= message.HasField("end")
            self.skip_counts.update({c.reason: c.count for c in message.skip_counts})
            self.has_end = message.HasField("end")

    def _explanations(self, message: pb.WatchResponse) -> None:
        for delta in message.deltas:
            assert delta.item_index < len(self.places), "text of an item that is not known"
            key = (delta.item_index, delta.sample_index)
            self.text[key] = self.text.get(key, "") + delta.text
        for explanation in message.explanations:
            key = (explanation.item_index, explanation.sample_index)
            assert key not in self.done
            self.done.add(key)
            assert self.text.get(key, "") == explanation.raw_text
            assert explanation.token_position == self.places[explanation.item_index]
            assert explanation.lag_seconds == 0.25


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(0, 2**32))
def test_readers_of_any_pace_get_everything_once(
    pairs: dict[str, Pair], num_samples: int, seed: int
) -> None:
    model = ServedModel.of("m", make_info(pairs["qwen2"].av))
    run = _run(num_samples)
    source = Source(model.tokenizer, run, seed)
    readers = [Reader(WatchCursor(run, model), model) for _ in range(3)]
    while not run.has_ended:
        source.step()
        readers[0].take()
        if source.random.random() < 0.2:
            readers[1].take()
    readers.append(Reader(WatchCursor(run, model), model))
    before = _whole(model.tokenizer, source.prompt)
    for reader in readers:
        reader.take()
        assert reader.has_end and reader.cursor.is_at_end
        assert before + reader.said == TEXT
        assert reader.target == run.target_tokens and len(reader.target) == len(source.said)
        assert [place.position for place in reader.places] == [p.position for p in run.places]
        assert len(reader.done) == run.num_sequences
        assert reader.finish_reasons == [pb.FINISH_REASON_LENGTH]
        assert sum(reader.skip_counts.values()) == len(source.said) - len(run.places)
        told = Counter(reason for _, reason in reader.skipped)
        assert pb.SKIP_REASON_EVERY not in told
        reader.skip_counts.pop(pb.SKIP_REASON_EVERY, None)
        assert told == reader.skip_counts


@pytest.mark.parametrize("arch", ["qwen2", "llama3", "gemma3"])
@pytest.mark.parametrize("text", [TEXT, "日本語テキスト" * 4, "👨‍👩‍👧‍👦" * 3])
def test_text_goes_on_behind_a_prompt(pairs: dict[str, Pair], arch: str, text: str) -> None:
    """Wherever the prompt ends, within a character too, and whatever it looks back to."""
    tokenizer = Tokenizer.from_file(str(Path(pairs[arch].av) / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    for cut in range(len(ids)):
        stream = TextStream(tokenizer)
        stream.continue_from(ids[:cut])
        said = "".join(stream.push((token,)) for token in ids[cut:]) + stream.rest()
        before = _whole(tokenizer, ids[:cut])
        assert before + said == tokenizer.decode(ids, skip_special_tokens=False), cut


def test_a_target_that_ends_within_a_character(model: ServedModel) -> None:
    ids = model.tokenizer.encode("a \U00013080", add_special_tokens=False).ids[:-1]
    run = _run()
    run.open(OpenedText(request_id="1", token_ids=(ids[0],), positions=()))
    cursor = WatchCursor(run, model)
    said = ""
    for position, token in enumerate(ids[1:], start=1):
        run.generate(position, token)
        if position == len(ids) - 1:
            run.target_finish_reason = "length"
        for message in cursor.take(model.info):
            assert isinstance(message, pb.WatchResponse)
            said += "".join(token.text for token in message.target_tokens)
    assert said.startswith(" ") and said.endswith("\ufffd")


def test_an_explain_says_what_was_read(model: ServedModel) -> None:
    run = _run()
    ids = tuple(model.tokenizer.encode("some words", add_special_tokens=False).ids)
    run.open(OpenedText(request_id="1", token_ids=ids, positions=(0, 1)))
    cursor = ExplainCursor(run, model)
    assert cursor.take(model.info) == []
    run.capture(TokenPlace(0, ids[0], 2.5, 1), 0.0)
    (message,) = cursor.take(model.info)
    assert isinstance(message, pb.ExplainResponse)
    (place,) = message.captured
    text = model.tokenizer.decode([ids[0]])
    assert place == pb.TokenPosition(
        position=0, token_id=ids[0], token=text, norm=2.5, layer_index=1
    )
    run.end(1.0)
    (message,) = cursor.take(model.info)
    assert message.HasField("end") and not message.captured


def test_a_long_watch_that_is_read_late_comes_in_bounded_messages(model: ServedModel) -> None:
    run = _run()
    word = model.tokenizer.encode("word").ids[0]
    run.open(OpenedText(request_id="1", token_ids=(word,), positions=()))
    for position in range(1, 40_000):
        run.generate(position, word)
        run.capture(TokenPlace(position, word, 1.0, 1), 0.0)
        run.skip(SkippedToken(request_id="1", position=position, reason="max_pending"))
    messages = WatchCursor(run, model).take(model.info)
    sizes = [message.ByteSize() for message in messages]
    assert len(sizes) > 2 and max(sizes) < MAX_MESSAGE_BYTES + (64 << 10)
    cursor = WatchCursor(run, model)
    cursor.take(model.info)
    for position in range(200_000):
        run.skip(SkippedToken(request_id="1", position=position, reason="target_ended"))
    sizes = [message.ByteSize() for message in cursor.take(model.info)]
    assert len(sizes) > 2 and max(sizes) < MAX_MESSAGE_BYTES
