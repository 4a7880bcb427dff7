"""The tokenizer as AutoTokenizer gives it back, beside a qwen3 configuration."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gloss_training.errors import ConfigError
from gloss_training.models.prompts import (
    EXPLANATION_CLOSE,
    EXPLANATION_OPEN,
    end_of_turn_id,
    marked_prompt,
)
from gloss_training.settings import PromptSettings
from gloss_training.world.settings import WORLD_PROMPT, ShapeSettings, WorldSettings
from gloss_training.world.stories import split_words
from gloss_training.world.target import target_config
from gloss_training.world.tokenizer import (
    CONCEPT_CLOSE,
    CONCEPT_OPEN,
    build_tokenizer,
    text_of,
    vocabulary,
)


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = build_tokenizer(WorldSettings(), 0)
    tokenizer.save_pretrained(folder)
    target_config(ShapeSettings(), tokenizer).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary_has_no_doubles_and_a_modest_size(reloaded: PreTrainedTokenizerFast) -> None:
    assert len(set(vocabulary())) == len(vocabulary()) == len(reloaded)
    assert 200 <= len(reloaded) <= 320


@pytest.mark.parametrize(
    "text",
    [
        "The hero is Ben, a baker. He has a red kite.",
        "The text ends with “a red”. It breaks off after “kite.”.",
        "What will happen next? What a fine red kite! The vector: a story.",
    ],
)
def test_texts_come_back_as_written(reloaded: PreTrainedTokenizerFast, text: str) -> None:
    assert reloaded.decode(reloaded.encode(text)) == text


def test_one_token_per_word_and_case_is_kept(reloaded: PreTrainedTokenizerFast) -> None:
    text = "The baker is in the garden. Ben!"
    assert reloaded.tokenize(text) == split_words(text)
    assert reloaded.encode("The") != reloaded.encode("the")
    assert reloaded.encode(text) == reloaded.convert_tokens_to_ids(split_words(text))


def test_unknown_words_become_one_token_each(reloaded: PreTrainedTokenizerFast) -> None:
    ids = reloaded.encode("Ben rides a zebra.")
    assert [index for index, token in enumerate(ids) if token == reloaded.unk_token_id] == [1, 3]
    assert "[UNK]" in text_of(reloaded, ids)


def test_tags_are_single_plain_tokens(reloaded: PreTrainedTokenizerFast) -> None:
    for tag in (EXPLANATION_OPEN, EXPLANATION_CLOSE, CONCEPT_OPEN, CONCEPT_CLOSE):
        assert len(reloaded.encode(tag, add_special_tokens=False)) == 1
    text = f"{EXPLANATION_OPEN} It is rainy. {EXPLANATION_CLOSE}"
    ids = reloaded.encode(text + reloaded.eos_token)
    assert reloaded.decode(ids, skip_special_tokens=True) == text


def test_marker_stands_once_in_the_rendered_prompt(reloaded: PreTrainedTokenizerFast) -> None:
    marker = WORLD_PROMPT.injection_char
    content = WORLD_PROMPT.av_template.format(injection_char=marker)
    rendered = reloaded.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = reloaded.encode(rendered, add_special_tokens=False)
    (marker_id,) = reloaded.encode(marker, add_special_tokens=False)
    assert ids.count(marker_id) == 1
    prompt = marked_prompt(reloaded, WORLD_PROMPT)
    assert list(prompt.token_ids) == ids
    assert prompt.marker_id == marker_id
    neighbours = [prompt.left_id, prompt.right_id]
    assert neighbours == reloaded.convert_tokens_to_ids([CONCEPT_OPEN, CONCEPT_CLOSE])
    assert prompt.marker_index > len(ids) / 2
    assert reloaded.unk_token_id not in ids


@pytest.mark.parametrize("template", ["no marker here", "{injection_char} and {injection_char}"])
def test_a_template_without_exactly_one_slot_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"prompt\.av_template.*once"):
        PromptSettings(av_template=template)


def test_a_prompt_with_a_second_marker_is_refused(reloaded: PreTrainedTokenizerFast) -> None:
    twice = PromptSettings(injection_char="kite", av_template="a kite {injection_char} is")
    with pytest.raises(ConfigError, match="2 times"):
        marked_prompt(reloaded, twice)


def test_a_marker_of_two_tokens_is_refused(reloaded: PreTrainedTokenizerFast) -> None:
    two = PromptSettings(injection_char="golden kite", av_template="a {injection_char} is")
    with pytest.raises(ConfigError, match="'golden kite' is 2 tokens, expected one"):
        marked_prompt(reloaded, two)


def test_other_braces_of_a_template_are_text(reloaded: PreTrainedTokenizerFast) -> None:
    plain = PromptSettings(av_template="a kite {injection_char} is")
    braces = PromptSettings(av_template="a {kite} {injection_char} is {")
    ids = marked_prompt(reloaded, braces).token_ids
    # A brace is one unknown token, or none where it stands within a word.
    known = [index for index in ids if index != reloaded.unk_token_id]
    assert known == [*marked_prompt(reloaded, plain).token_ids]


def test_what_ends_a_turn_is_found_in_the_chat_template(reloaded: PreTrainedTokenizerFast) -> None:
    assert end_of_turn_id(reloaded, ()) == reloaded.eos_token_id
    user = reloaded.convert_tokens_to_ids("<|user|>")
    assert end_of_turn_id(reloaded, (user,)) == reloaded.eos_token_id


def test_ar_template_is_known_text(reloaded: PreTrainedTokenizerFast) -> None:
    ids = reloaded.encode(WORLD_PROMPT.ar_template.format(explanation="It is rainy."))
    assert reloaded.unk_token_id not in ids
    assert reloaded.bos_token_id is None


def test_other_roles_are_refused(reloaded: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="only the roles"):
        reloaded.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_a_conversation_renders_turn_by_turn(reloaded: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Say"}, {"role": "assistant", "content": "It"}]
    rendered = reloaded.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|user|>Say<|end|><|assistant|>It<|end|>"
