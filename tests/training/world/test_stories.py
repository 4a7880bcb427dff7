"""Stories: whole sentences, known words, and revealed facts that the words themselves bear out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_training.world.attributes import ATTRIBUTES, NAMES, is_male, value_index
from gloss_training.world.stories import Mention, Story, make_story, split_words, world_words

seeds = st.integers(min_value=0, max_value=2**32)


@given(seeds, st.integers(min_value=17, max_value=90))
def test_story_is_whole_sentences_of_known_words(seed: int, max_words: int) -> None:
    story = make_story(np.random.default_rng(seed), max_words)
    assert 0 < len(story.words) <= max_words
    assert story.words[-1] in {".", "?", "!"}
    assert set(story.words) <= set(world_words())


@given(seeds)
def test_every_mention_is_the_word_at_its_position(seed: int) -> None:
    story = make_story(np.random.default_rng(seed), 80)
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


@given(seeds)
def test_every_value_word_after_its_reveal_is_mentioned(seed: int) -> None:
    """A value that stands in the text counts as revealed, unless two attributes share it."""
    story = make_story(np.random.default_rng(seed), 80)
    facts = story.revealed(len(story.words))
    for position, word in enumerate(story.words):
        for attribute, values in ATTRIBUTES.items():
            if word in values and word not in NAMES:
                assert story.revealed(position).get(attribute) == word == facts[attribute]


def test_most_stories_reveal_every_attribute() -> None:
    generator = np.random.default_rng(1)
    stories = [make_story(generator, 80) for _ in range(200)]
    counts = [len(story.revealed(len(story.words))) for story in stories]
    assert np.mean(counts) > 0.9 * len(ATTRIBUTES)


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
