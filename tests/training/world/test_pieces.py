"""The tokenizer of pieces, and what holds of a text that ends within a word."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gloss_training.documents.plan import plan_documents
from gloss_training.documents.settings import DataSettings
from gloss_training.models.prompts import EXPLANATION_CLOSE, EXPLANATION_OPEN, marked_prompt
from gloss_training.run.config import read_config
from gloss_training.seeds import generator_for
from gloss_training.teachers.world_teacher import WorldTeacher
from gloss_training.world import grammar
from gloss_training.world import tokenizer as tokenizer_module
from gloss_training.world.claims import judge, parse
from gloss_training.world.documents import damaged_story, world_documents
from gloss_training.world.rewording import reword
from gloss_training.world.settings import WORLD_PROMPT, WorldSettings
from gloss_training.world.stories import UNKNOWN_WORD, words_of
from gloss_training.world.target import target_config
from gloss_training.world.tokenizer import RESERVED, TAGS, build_tokenizer

LARGER = read_config("larger")
assert LARGER.world is not None
WORLD = replace(LARGER.world, unknown_word_rate=0.02)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = build_tokenizer(WORLD, 0)
    tokenizer.save_pretrained(folder)
    target_config(WORLD.shape, tokenizer).save_pretrained(folder)
    found = AutoTokenizer.from_pretrained(folder)
    assert found.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    return found


def texts(count: int) -> list[str]:
    """Stories and explanations in turn."""
    generator = np.random.default_rng(5)
    stories = [damaged_story(WORLD, generator) for _ in range(count)]
    said = [grammar.explain(each, 40, generator, 2) for each in stories]
    return [text for pair in zip((s.text for s in stories), said, strict=True) for text in pair]


def test_its_size_is_the_one_asked_for_and_reserved_tokens_come_first(
    reloaded: PreTrainedTokenizerFast,
) -> None:
    assert len(reloaded) == reloaded.vocab_size == WORLD.vocabulary_size
    assert reloaded.convert_ids_to_tokens(range(len(RESERVED))) == [*RESERVED]


def test_texts_come_back_to_the_letter(reloaded: PreTrainedTokenizerFast) -> None:
    odd = ["Ben rides a zebra , twice .", "été\t㈎ “x” 😀\n", " two  spaces ", "May Mayor"]
    for text in [*texts(10), *odd]:
        ids = reloaded.encode(text)
        assert reloaded.decode(ids) == text
        assert (reloaded.unk_token_id in ids) == (UNKNOWN_WORD in text)


def test_marker_and_tags_are_one_token_whatever_stands_beside_them(
    reloaded: PreTrainedTokenizerFast,
) -> None:
    for token in (WORLD_PROMPT.injection_char, *TAGS):
        for text in (token, f"a{token}a", f"{token}{token}", f" {token} "):
            ids = reloaded.encode(text, add_special_tokens=False)
            assert ids.count(reloaded.convert_tokens_to_ids(token)) == text.count(token)
    prompt = marked_prompt(reloaded, WORLD_PROMPT)
    around = reloaded.convert_ids_to_tokens([prompt.left_id, prompt.marker_id, prompt.right_id])
    assert around == ["<concept>", WORLD_PROMPT.injection_char, "</concept>"]
    said = f"{EXPLANATION_OPEN} It is rainy. {EXPLANATION_CLOSE}"
    assert reloaded.decode(reloaded.encode(said + "<|end|>"), skip_special_tokens=True) == said


def test_the_same_seed_learns_the_same_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "NUM_STORIES_OF_PIECES", 20)
    made = [build_tokenizer(WORLD, seed).backend_tokenizer.to_str() for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    # However many words are damaged: no piece is learnt of what stands for them.
    damaged = build_tokenizer(replace(WORLD, unknown_word_rate=0.4), 1)
    assert damaged.backend_tokenizer.to_str() == made[0]


def test_what_the_teacher_says_is_true_of_a_text_that_ends_within_a_word(
    reloaded: PreTrainedTokenizerFast,
) -> None:
    documents = [*world_documents(WORLD, 4, 0)]
    settings = DataSettings(min_position=8, positions_per_document=80)
    plan = plan_documents(documents, reloaded, settings, 0)
    found = [each for planned in plan.documents for each in planned.passages(8000)]
    teacher = WorldTeacher(seed=0, num_ending_words=2)
    answers = asyncio.run(teacher.explain(found, lambda answer: None))
    num_parts = 0
    for passage, answer in zip(found, answers, strict=True):
        story = damaged_story(WORLD, generator_for(0, f"story-{int(passage.doc_id[6:])}"))
        assert story.text.startswith(passage.text)
        words, facts = words_of(passage.text), dict(passage.facts or {})
        is_part = words[-1] != story.words[len(words) - 1]
        num_parts += is_part
        assert facts == story.revealed(len(words) - 1 - is_part)
        verdict = judge(answer.text, facts, words)
        assert verdict.num_facts == verdict.num_facts_right == len(facts)
        assert verdict.num_endings == verdict.num_endings_right == 1
        assert verdict.num_unparsed == 0
        claims = {(claim.attribute, claim.value) for claim in parse(answer.text).claims}
        again = parse(reword(answer.text, np.random.default_rng(0))).claims
        assert {(claim.attribute, claim.value) for claim in again} == claims
    assert 30 < num_parts < len(found) / 2


def test_a_world_of_words_can_have_all_attributes_too() -> None:
    world = WorldSettings(num_attributes=16, max_words=140)
    tokenizer = build_tokenizer(world, 0)
    generator = np.random.default_rng(2)
    for _ in range(20):
        story = damaged_story(replace(world, unknown_word_rate=0.0), generator)
        ids = tokenizer.encode(story.text)
        assert tokenizer.convert_ids_to_tokens(ids) == list(story.words)
