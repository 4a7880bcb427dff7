"""The closing tag found wherever tokens cut it, compared with a search of the whole text."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gloss_engine.av.stop import CLOSING_TAG, stop_table, token_texts
from support.checkpoints import Pair
from support.engine_runs import small_engine
from support.reference import ReferenceVerbalizer

FRAGMENTS = [CLOSING_TAG[:n] for n in range(1, len(CLOSING_TAG))]
FRAGMENTS += [CLOSING_TAG[n:] for n in range(1, len(CLOSING_TAG))]
FRAGMENTS += [CLOSING_TAG, "<", "</", "x", " ", "\n", "\ufffd", "<explanation>", "\u6cb3", "n>"]


def _found_at(pieces: list[str], tag: str = CLOSING_TAG) -> int | None:
    """Index of the piece that completes the tag, by the automaton."""
    table = stop_table(pieces, tag)
    state = 0
    for index in range(len(pieces)):
        state = int(table[state, index])
        if state == len(tag):
            return index
    return None


def _searched_at(pieces: list[str], tag: str = CLOSING_TAG) -> int | None:
    """The same by a plain search."""
    return next(
        (i for i in range(len(pieces)) if tag in "".join(pieces[: i + 1])),
        None,
    )


@st.composite
def splits(draw: st.DrawFn) -> list[str]:
    """A text rich in beginnings and ends of the tag, cut at random places."""
    text = "".join(draw(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8)))
    if draw(st.booleans()):
        text += CLOSING_TAG + draw(st.sampled_from(FRAGMENTS))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(splits())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_as_a_search_of_the_text(pieces: list[str]) -> None:
    assert _found_at(pieces) == _searched_at(pieces)


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_tags_that_overlap_themselves(data: st.DataObject) -> None:
    tag = data.draw(st.text("ab", min_size=1, max_size=6))
    pieces = data.draw(st.lists(st.text("abc", max_size=4), min_size=1, max_size=10))
    assert _found_at(pieces, tag) == _searched_at(pieces, tag)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["<</explanation>"], 0),
        (["<", "</explanation>"], 1),
        (["</expl</explanation>"], 0),
        (["</expl", "</explan", "ation", ">"], 3),
        (["</explanation", "x", ">"], None),
        (["</explanation", "", ">"], 2),
        (["a</explana", "tion>bcd"], 1),
        (["</", "explanation", ">", "more"], 2),
        (list(CLOSING_TAG), len(CLOSING_TAG) - 1),
        (["</explanation", "\ufffd>"], None),
        (["<explanation>", "</Explanation>"], None),
    ],
)
def test_cuts(pieces: list[str], expected: int | None) -> None:
    assert _found_at(pieces) == expected == _searched_at(pieces)


def test_the_final_state_is_kept() -> None:
    table = stop_table([CLOSING_TAG, "a", "", "<"])
    final = len(CLOSING_TAG)
    assert table.shape == (final + 1, 4)
    assert table[final].tolist() == [final] * 4


@pytest.fixture(scope="module")
def tokenizers(pairs: dict[str, Pair]) -> dict[str, Any]:
    return {arch: ReferenceVerbalizer(pair.av).tokenizer for arch, pair in pairs.items()}


@pytest.fixture
def tokenizer(tokenizers: dict[str, Any], arch: str) -> Any:
    return tokenizers[arch]


def _ids_by_text(tokenizer: Any) -> dict[str, list[int]]:
    """Every token by the text it adds in the middle of a text: an independent way to it."""
    anchor = tokenizer.encode("a", add_special_tokens=False)
    before = tokenizer.decode(anchor)
    by_text: dict[str, list[int]] = {}
    for index in range(len(tokenizer)):
        whole = tokenizer.decode([*anchor, index], skip_special_tokens=False)
        by_text.setdefault(whole.removeprefix(before), []).append(index)
    return by_text


def test_token_texts_join_to_the_decoded_text(tokenizer: Any) -> None:
    """On every token of a real encoding, bytes, spaces and special tokens among them."""
    texts = token_texts(tokenizer, len(tokenizer) + 7)
    assert len(texts) == len(tokenizer) + 7 and texts[-7:] == [""] * 7
    special = tokenizer.eos_token
    text = f"x The text: <explanation> a{special} b</explanation>\n 42 \n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(texts[i] for i in ids) == tokenizer.decode(ids, skip_special_tokens=False)
    assert texts[tokenizer.eos_token_id] == special


def test_bytes_that_are_no_character_add_a_replacement(tokenizer: Any) -> None:
    texts = token_texts(tokenizer, len(tokenizer))
    ids = tokenizer.encode("\U0001f9ff", add_special_tokens=False)
    assert len(ids) > 1 and all("\ufffd" in texts[i] for i in ids)
    assert _state_after(tokenizer, [*_plain_ids(tokenizer, "</explanation"), *ids]) == 0


@cache
def _table_of(name: str, tokenizer: Any) -> Any:
    return stop_table(token_texts(tokenizer, len(tokenizer)))


def _state_after(tokenizer: Any, ids: list[int]) -> int:
    table, state = _table_of(tokenizer.name_or_path, tokenizer), 0
    for token in ids:
        state = int(table[state, token])
    return state


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """One token a character."""
    by_text = _ids_by_text(tokenizer)
    return [by_text[char][0] for char in text]


@pytest.mark.parametrize("seed", range(3))
def test_any_way_to_spell_the_tag_in_tokens(tokenizer: Any, seed: int) -> None:
    """Random segmentations into tokens of the vocabulary, against decoding after each token."""
    chosen = random.Random(seed)
    by_text = _ids_by_text(tokenizer)
    by_text.pop("", None)
    longest = max(len(text) for text in by_text)
    table, final = _table_of(tokenizer.name_or_path, tokenizer), len(CLOSING_TAG)
    num_found = used = 0
    for _ in range(60):
        body = chosen.choice(["It rains. ", "a <", "</expl", "", "<explanation>b</", "x\n"])
        rest = CLOSING_TAG if chosen.random() < 0.7 else "</explanation"
        text, ids = body + rest + " more", []
        while text:
            lengths = [n for n in range(1, min(longest, len(text)) + 1) if text[:n] in by_text]
            n = chosen.choice(lengths)
            ids.append(chosen.choice(by_text[text[:n]]))
            used = max(used, n)
            text = text[n:]
        state = 0
        for count, token in enumerate(ids, 1):
            state = int(table[state, token])
            held = CLOSING_TAG in tokenizer.decode(ids[:count], skip_special_tokens=False)
            assert (state == final) == held, (ids[:count], state)
        num_found += state == final
    assert 30 < num_found < 60 and used > 4


def test_the_engines_stop_is_the_first_token_that_completes_the_tag(pair: Pair) -> None:
    """The automaton in the AV's program is that of its own tokenizer, head rows and all."""
    engine = small_engine(pair.av)
    tokenizer = engine.reader.tokenizer
    table = engine.runner.program.stop_table
    state = 0
    for token in tokenizer.encode(f"word{CLOSING_TAG}", add_special_tokens=False):
        assert state < len(CLOSING_TAG)
        state = int(table[state, token])
    assert state == len(CLOSING_TAG)
    assert table.shape[1] == engine.runner.decoder.spec.vocab_size
