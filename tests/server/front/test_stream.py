"""Streams: whole characters, every token once, messages of bounded size, readers of any pace."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.request import Explanation
from gloss_server.front.call_error import CallError
from gloss_server.front.run import Run
from gloss_server.front.stream import MAX_MESSAGE_BYTES, StreamCursor, TextStream
from support.checkpoints import Pair

TEXTS = (
    "plain words, then more",
    "Größe, naïve café",
    "日本語のテキスト",
    "family 👨‍👩‍👧‍👦 and flags 🇩🇪",
    "\ud7ff\ue000\u200d end",
    "a\n\tb  c",
)


@pytest.fixture(scope="module", params=["qwen2", "llama3", "gemma3"])
def tokenizer(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Tokenizer:
    """Byte-level ones, and one that falls back to bytes."""
    return Tokenizer.from_file(str(Path(pairs[request.param].av) / "tokenizer.json"))


def _checkpoint() -> CheckpointInfo:
    return CheckpointInfo(
        architecture="qwen2", num_layers=2, d_model=4, vocab_size=9, fingerprint="f", template="t"
    )


INFO = ModelInfo(
    fingerprint="f",
    av=_checkpoint(),
    ar=None,
    layer_index=1,
    injection_scale=1.0,
    injection_mode="replace",
    mse_scale=None,
    fve_baseline=None,
    baseline_source=None,
    norm_median=None,
    min_position=None,
    prefix_tokens=5,
    suffix_tokens=3,
    max_new_tokens=50,
    num_slots=4,
    num_pages=9,
    device="cpu",
    dtype="float32",
    quantization="none",
    kernels="reference",
    batch_invariant=False,
    tokenizer="",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pace", [1, 2, 5])
def test_text_grows_by_whole_characters(tokenizer: Tokenizer, text: str, pace: int) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    stream, seen = TextStream(tokenizer), ""
    for start in range(0, len(ids), pace):
        added = stream.push(ids[start : start + pace])
        assert "\ufffd" not in added
        seen += added
        assert whole.startswith(seen)
    assert seen + stream.rest_of(whole) == whole


def test_bytes_that_never_become_a_character(tokenizer: Tokenizer) -> None:
    """They come with the end, as the whole text has them."""
    ids = tokenizer.encode("\U00013080", add_special_tokens=False).ids[:-1]
    assert ids, "a hieroglyph is several tokens"
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    stream = TextStream(tokenizer)
    seen = "".join(stream.push([token]) for token in ids)
    assert seen + stream.rest_of(whole) == whole


def _run(num_items: int, num_samples: int) -> Run:
    return Run(
        run_id=1,
        num_items=num_items,
        num_samples=num_samples,
        max_new_tokens=50,
        seed=1,
        arrived=0.0,
        streams=True,
    )


class Source:
    """Feeds a run at random and knows what every reader must get."""

    def __init__(self, tokenizer: Tokenizer, run: Run, seed: int) -> None:
        self.tokenizer, self.run, self.random = tokenizer, run, random.Random(seed)
        self.ids: list[list[int]] = []
        for _ in range(run.num_sequences):
            text = "".join(self.random.choice(TEXTS) for _ in range(self.random.randint(0, 3)))
            self.ids.append(tokenizer.encode(text, add_special_tokens=False).ids)
        self.at = [0] * run.num_sequences
        self.open = list(range(run.num_sequences))

    def raw(self, sequence: int) -> str:
        return str(self.tokenizer.decode(self.ids[sequence], skip_special_tokens=False))

    def step(self) -> None:
        """Some sequences get a token; those without another end."""
        chosen = [s for s in self.open if self.random.random() < 0.7]
        tokens = {}
        for sequence in chosen:
            if self.at[sequence] < len(self.ids[sequence]):
                tokens[sequence] = self.ids[sequence][self.at[sequence]]
                self.at[sequence] += 1
            else:
                self.open.remove(sequence)
                self.run.explanations.append(
                    Explanation(
                        request_id="1",
                        index=sequence // self.run.num_samples,
                        sample=sequence % self.run.num_samples,
                        seed=1,
                        raw_text=self.raw(sequence),
                        token_ids=tuple(self.ids[sequence]),
                        finish_reason="eos",
                    )
                )
        for sequence, token in tokens.items():
            self.run.tokens[sequence].append(token)
        if not self.open:
            self.run.end(1.0)


class Reader:
    """Puts messages together, and holds them to the contract."""

    def __init__(self, cursor: StreamCursor) -> None:
        self.cursor = cursor
        self.text: dict[tuple[int, int], str] = {}
        self.ids: dict[tuple[int, int], list[int]] = {}
        self.done: set[tuple[int, int]] = set()
        self.has_end = False

    def take(self) -> None:
        for message in self.cursor.take(INFO):
            assert not self.has_end, "a message after the end"
            assert message.ByteSize() < 1 << 20
            self._read(message)

    def _read(self, message: pb.StreamVerbalizeResponse) -> None:
        for delta in message.deltas:
            key = (delta.item_index, delta.sample_index)
            assert key not in self.done
            self.text[key] = self.text.get(key, "") + delta.text
            self.ids.setdefault(key, []).extend(delta.token_ids)
        for explanation in message.explanations:
            key = (explanation.item_index, explanation.sample_index)
            assert key not in self.done
            self.done.add(key)
            assert self.text.get(key, "") == explanation.raw_text
            assert self.ids.get(key, []) == list(explanation.token_ids)
        self.has_end = message.HasField("end")


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32))
def test_readers_of_any_pace_get_everything_once(
    pairs: dict[str, Pair], num_items: int, num_samples: int, seed: int
) -> None:
    tokenizer = Tokenizer.from_file(str(pairs["qwen2"].av / "tokenizer.json"))
    run = _run(num_items, num_samples)
    source = Source(tokenizer, run, seed)
    readers = [Reader(StreamCursor(run, tokenizer)) for _ in range(3)]
    while not run.has_ended:
        source.step()
        readers[0].take()
        if source.random.random() < 0.2:
            readers[1].take()
    late = Reader(StreamCursor(run, tokenizer))
    for reader in (*readers, late):
        reader.take()
        assert reader.has_end and reader.cursor.is_at_end
        assert len(reader.done) == run.num_sequences


def test_a_large_backlog_comes_in_bounded_messages(pairs: dict[str, Pair]) -> None:
    tokenizer = Tokenizer.from_file(str(pairs["qwen2"].av / "tokenizer.json"))
    run = _run(3000, 1)
    ids = tuple(tokenizer.encode("many words of one explanation " * 10).ids[:100])
    for index in range(3000):
        run.tokens[index].extend(ids)
        raw = tokenizer.decode(ids, skip_special_tokens=False)
        run.explanations.append(
            Explanation(request_id="1", index=index, sample=0, seed=1, raw_text=raw, token_ids=ids)
        )
    run.end(1.0)
    cursor = StreamCursor(run, tokenizer)
    messages = cursor.take(INFO)
    sizes = [message.ByteSize() for message in messages]
    assert len(sizes) > 1 and max(sizes) < MAX_MESSAGE_BYTES + (64 << 10)
    assert sum(len(message.explanations) for message in messages) == 3000
    assert cursor.is_at_end and cursor.take(INFO) == []


def test_a_failed_run_has_no_end_message(pairs: dict[str, Pair]) -> None:
    tokenizer = Tokenizer.from_file(str(pairs["qwen2"].av / "tokenizer.json"))
    run = _run(1, 1)
    run.end(1.0, CallError("ENGINE_RESTARTED", "gone", retry_after=1.0))
    assert StreamCursor(run, tokenizer).take(INFO) == []


def test_waiting_for_a_run() -> None:
    """Whoever waits wakes at the end, whoever comes later does not wait; failures are raised."""

    async def scenario() -> None:
        run = _run(1, 1)
        waiting = [asyncio.create_task(run.until_ended()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        run.wake()
        await asyncio.sleep(0)
        run.end(1.0)
        run.end(2.0, CallError("INTERNAL", "too late to count"))
        await asyncio.wait_for(asyncio.gather(*waiting), 1)
        await asyncio.wait_for(run.until_ended(), 1)
        failed = _run(1, 1)
        failed.end(1.0, CallError("INTERNAL", "it failed"))
        with pytest.raises(CallError, match="it failed"):
            await failed.until_ended()

    asyncio.run(scenario())
