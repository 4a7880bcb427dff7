"""Stories: whole sentences, known words, and revealed facts that the words themselves bear out."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_training.world.attributes import (
    ATTRIBUTES,
    NAMES,
    attributes_of,
    is_male,
    value_index,
)
from gloss_training.world.stories import (
    Mention,
    Story,
    make_story,
    split_words,
    words_of,
    world_words,
)
from gloss_training.world.templates import templates_of

seeds = st.integers(min_value=0, max_value=2**32)
counts = st.sampled_from([10, 13, 16])


@given(seeds, st.integers(min_value=17, max_value=140), counts)
def test_story_is_whole_sentences_of_known_words(
    seed: int, max_words: int, num_attributes: int
) -> None:
    story = make_story(np.random.default_rng(seed), max_words, num_attributes)
    assert 0 < len(story.words) <= max_words
    assert story.words[-1] in {".", "?", "!"}
    assert set(story.words) <= set(world_words(num_attributes))
    told = {mention.attribute for mention in story.mentions}
    assert told <= attributes_of(num_attributes).keys()


@given(seeds, counts)
def test_every_mention_is_the_word_at_its_position(seed: int, num_attributes: int) -> None:
    story = make_story(np.random.default_rng(seed), 140, num_attributes)
    for mention in story.mentions:
        assert story.words[mention.position] == mention.value
        assert mention.value in ATTRIBUTES[mention.attribute]


@given(seeds)
def test_facts_are_revealed_at_their_first_mention_and_never_change(seed: int) -> None:
    story = make_story(np.random.default_rng(seed), 80)
    for attribute, value in story.revealed(len(story.words)).items():
        first = min(m.position for m in story.mentions if m.attribute == attribute)
        assert attribute not in story.revealed(first - 1)
        assert story.revealed(first)[attribute] == value


@given(seeds)
def test_pronouns_agree_with_the_hero(seed: int) -> None:
    story = make_story(np.random.default_rng(seed), 80)
    hero = story.revealed(len(story.words))["hero"]
    wrong = {"She", "she", "her", "Her"} if is_male(hero) else {"He", "he", "him", "his", "His"}
    assert not wrong & set(story.words)


@given(seeds, counts)
def test_every_value_word_after_its_reveal_is_mentioned(seed: int, num_attributes: int) -> None:
    """A value that stands in the text counts as revealed, unless two attributes share it."""
    story = make_story(np.random.default_rng(seed), 140, num_attributes)
    facts = story.revealed(len(story.words))
    for position, word in enumerate(story.words):
        for attribute, values in ATTRIBUTES.items():
            if word in values and word not in NAMES:
                assert story.revealed(position).get(attribute) == word == facts[attribute]


@pytest.mark.parametrize(("max_words", "num_attributes"), [(80, 10), (140, 16)])
def test_most_stories_reveal_every_attribute(max_words: int, num_attributes: int) -> None:
    generator = np.random.default_rng(1)
    stories = [make_story(generator, max_words, num_attributes) for _ in range(200)]
    counts = [len(story.revealed(len(story.words))) for story in stories]
    assert np.mean(counts) > 0.9 * num_attributes


def test_no_value_is_another_attributes_or_stands_in_a_template() -> None:
    """Each attribute has sentences of its own, so that a world can have the first so many."""
    values = [value for name, of in ATTRIBUTES.items() if name != "friend" for value in of]
    assert len({*values}) == len(values)
    for count in range(10, len(ATTRIBUTES) + 1):
        templates = templates_of(count)
        assert {"hero", *templates.reveals} == {*attributes_of(count)}
        assert all(templates.reveals.values())
    words = {word for template in templates.all() for word in split_words(template)}
    assert not words & {*values} - {*ATTRIBUTES}


@pytest.mark.parametrize("is_spaced", [True, False])
def test_part_of_a_word_reveals_nothing(is_spaced: bool) -> None:
    story = replace(make_story(np.random.default_rng(3), 140, 16), is_spaced=is_spaced)
    story = story.without([3, 9], "[UNK]")
    assert words_of(story.text) == list(story.words)
    assert (" ." in story.text) == is_spaced
    firsts = [replace(story, words=story.words[:count]) for count in range(len(story.words) + 1)]
    ends = [*(len(first.text) for first in firsts), len(story.text) + 1]
    for count, (start, end) in enumerate(pairwise(ends)):
        for num_chars in {start, end - 1}:
            assert story.num_words_within(num_chars) == count
            assert story.revealed_within(num_chars) == story.revealed(count - 1)


def test_a_replaced_word_reveals_nothing() -> None:
    mentions = (
        Mention(position=0, attribute="hero", value="Ben"),
        Mention(position=3, attribute="job", value="baker"),
        Mention(position=6, attribute="job", value="baker"),
    )
    words = ("Ben", "is", "a", "baker", ".", "The", "baker", "smiles", ".")
    story = Story(words=words, mentions=mentions).without([0, 3], "[UNK]")
    assert story.words[:4] == ("[UNK]", "is", "a", "[UNK]")
    assert story.revealed(5) == {}
    assert story.revealed(6) == {"job": "baker"}


def test_words_are_split_at_punctuation() -> None:
    assert split_words("Ben, a baker.") == ["Ben", ",", "a", "baker", "."]


def test_classes_of_values_leave_zero_for_unknown() -> None:
    for attribute, values in ATTRIBUTES.items():
        assert [value_index(attribute, v) for v in values] == list(range(1, len(values) + 1))


def test_only_names_have_pronouns() -> None:
    with pytest.raises(ValueError, match="'kite' is no name"):
        is_male("kite")
