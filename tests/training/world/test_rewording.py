"""A rewording states what its original states, in other words."""

import numpy as np

from gloss_training.seeds import generator_for
from gloss_training.world import grammar
from gloss_training.world.claims import parse
from gloss_training.world.rewording import reword
from gloss_training.world.stories import make_story


def explanations(count: int) -> list[str]:
    found = []
    for index in range(count):
        generator = generator_for(index, "rewording")
        story = make_story(generator, 60)
        found.append(grammar.explain(story, 20 + index % 30, generator, 2))
    return found


def test_claims_are_kept_and_wordings_are_not() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for text in explanations(60):
        reworded = reword(text, generator)
        assert {*parse(reworded).claims} == {*parse(text).claims}
        assert not parse(reworded).num_unparsed
        old = {*text.split(". ")}
        shares.append(len(old & {*reworded.split(". ")}) / len(old))
    assert sum(shares) / len(shares) < 0.25


def test_contradictions_stay_and_what_cannot_be_read_goes() -> None:
    text = "The hero is Ben. He zorp. The hero is Ada, a pilot. It is dawn."
    reworded = reword(text, np.random.default_rng(0))
    assert {*parse(reworded).claims} == {*parse(text).claims}
    assert "zorp" not in reworded
    assert reword("Zorp zorp.", np.random.default_rng(0)) == ""


def test_a_teacher_that_states_some_draws_each_as_likely() -> None:
    facts = {"hero": "Ben", "place": "park", "mood": "sad"}
    generator = np.random.default_rng(0)
    counts = dict.fromkeys((*facts, None), 0)
    sizes = {1: 0, 2: 0, 3: 0}
    for _ in range(3000):
        stated, ending = grammar.some_of(facts, "the", 3, generator)
        assert stated.items() <= facts.items()
        sizes[len(stated) + (ending is not None)] += 1
        for name in (*stated, *([None] if ending is not None else [])):
            counts[name] += 1
    assert all(abs(count / 1000 - 1) < 0.1 for count in sizes.values())
    assert all(abs(count / 1500 - 1) < 0.1 for count in counts.values())
    assert grammar.some_of({}, "the", 3, generator) == ({}, "the")
