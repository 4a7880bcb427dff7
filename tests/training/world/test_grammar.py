"""Teacher and parser: whatever the teacher writes, the parser reads back, and only that."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gloss_training.world import grammar
from gloss_training.world.attributes import ATTRIBUTES
from gloss_training.world.claims import ENDING, Claim, is_right, judge, parse
from gloss_training.world.settings import WorldSettings
from gloss_training.world.stories import UNKNOWN_WORD, make_story
from gloss_training.world.tokenizer import build_tokenizer

seeds = st.integers(min_value=0, max_value=2**32)
TOKENIZER = build_tokenizer(WorldSettings(num_attributes=len(ATTRIBUTES)), 0)
facts_of = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in ATTRIBUTES.items()}
)


def claims_as_facts(text: str) -> dict[str, str]:
    reading = parse(text)
    assert reading.num_unparsed == 0, text
    assert len({claim.attribute for claim in reading.claims}) == len(reading.claims), text
    return {claim.attribute: claim.value for claim in reading.claims}


@given(facts_of, seeds)
def test_every_set_of_facts_is_read_back(facts: dict[str, str], seed: int) -> None:
    text = grammar.write(facts, "a red", np.random.default_rng(seed))
    assert claims_as_facts(text) == {**facts, ENDING: "a red"}


@given(seeds, st.integers(min_value=1, max_value=4), st.sampled_from([10, 16]), st.data())
def test_teacher_states_exactly_what_is_revealed(
    seed: int, num_words: int, num_attributes: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    story = make_story(generator, 8 * num_attributes, num_attributes)
    hit = data.draw(st.sets(st.integers(0, len(story.words) - 1), max_size=8))
    story = story.without(hit, UNKNOWN_WORD)
    position = data.draw(st.integers(0, len(story.words) - 1))
    text = grammar.explain(story, position, generator, num_words)
    verdict = judge(text, story.revealed(position), story.words[: position + 1])
    assert verdict.num_facts == verdict.num_facts_right == len(story.revealed(position))
    assert verdict.num_recalled == verdict.num_revealed == len(story.revealed(position))
    assert verdict.num_endings == verdict.num_endings_right == 1
    assert verdict.num_unparsed == 0 < verdict.num_sentences


@given(facts_of, seeds, st.sampled_from(["a red", grammar.SENTENCE_END, UNKNOWN_WORD, "Ada"]))
def test_explanations_survive_the_tokenizer(facts: dict[str, str], seed: int, ending: str) -> None:
    text = grammar.write(facts, ending, np.random.default_rng(seed))
    token_ids = TOKENIZER.encode(text)
    assert TOKENIZER.unk_token_id not in token_ids
    assert TOKENIZER.decode(token_ids) == text


def test_every_wording_is_reachable() -> None:
    generator = np.random.default_rng(0)
    seen = ""
    for _ in range(4000):
        facts = {
            name: str(values[0]) for name, values in ATTRIBUTES.items() if generator.random() < 0.5
        }
        seen += grammar.write(facts, "so far", generator) + "\n"
    first = {name: values[0] for name, values in ATTRIBUTES.items()}
    wordings = [*grammar.IDENTITY, *grammar.SETTING, *grammar.CALENDAR, *grammar.ENDING]
    wordings += [wording for group in grammar.PREDICATES for wording in group]
    for wording in wordings:
        assert wording.format(ending="so far", **first) in seen


@pytest.mark.parametrize(
    ("text", "num_sentences", "num_unparsed"),
    [
        ("", 0, 0),
        ("He is in the garden.", 1, 0),
        ("He is in the garden", 1, 1),
        ("He is in the sky.", 1, 1),
        ("He is in the garden and flies.", 1, 1),
        ("kite kite kite.", 1, 1),
        ("It is a rainy morning. It breaks off after “kite.”. He is", 3, 1),
        ("The text ends with “a red", 1, 1),
    ],
)
def test_what_is_not_in_a_known_wording_states_nothing(
    text: str, num_sentences: int, num_unparsed: int
) -> None:
    reading = parse(text)
    assert (reading.num_sentences, reading.num_unparsed) == (num_sentences, num_unparsed)


def test_wrong_and_repeated_claims_are_counted() -> None:
    text = "The hero is Ben, a baker. She is in the park. He is in the garden. It is rainy."
    revealed = {"hero": "Ben", "job": "sailor", "place": "garden", "mood": "sad"}
    verdict = judge(text, revealed, ["Ben", "smiles"])
    assert verdict.num_facts == 5
    assert verdict.num_facts_right == 2
    assert verdict.num_recalled == 2
    assert verdict.num_revealed == 4
    assert verdict.num_endings == 0


@pytest.mark.parametrize(
    ("ending", "words", "right"),
    [
        ("a red", ["has", "a", "red"], True),
        ("red", ["has", "a", "red"], True),
        ("a blue", ["has", "a", "red"], False),
        ("has a red", ["a", "red"], False),
        (UNKNOWN_WORD, ["a", UNKNOWN_WORD], True),
        (UNKNOWN_WORD, ["a", "red"], False),
        (grammar.SENTENCE_END, ["red", "?"], True),
        (grammar.SENTENCE_END, ["a", "red"], False),
    ],
)
def test_endings_are_checked_against_the_last_words(
    ending: str, words: list[str], right: bool
) -> None:
    assert is_right(Claim(attribute=ENDING, value=ending), {}, words) is right


def test_the_ending_stays_within_the_last_sentence_and_quotes_no_unknown_word() -> None:
    words = ["a", "kite", ".", "He"]
    assert grammar.ending_of(words, 3) == "He"
    assert grammar.ending_of(words[:3], 2) == grammar.SENTENCE_END
    assert grammar.ending_of(["the", UNKNOWN_WORD, "is"], 3) == "is"
    assert grammar.ending_of(["the", UNKNOWN_WORD], 2) == UNKNOWN_WORD
