"""State labels, the state head's loss, and padding of story batches."""

import math

import torch

from gloss_training.batches import pad_right, rows_of_step
from gloss_training.seeds import generator_for
from gloss_training.world.attributes import ATTRIBUTES, value_index
from gloss_training.world.grammar import UNKNOWN_WORD
from gloss_training.world.settings import WorldSettings
from gloss_training.world.target import IGNORED, StateHead, state_labels
from gloss_training.world.target_batches import batch_of_ids, damaged_story
from gloss_training.world.tokenizer import build_tokenizer


def test_labels_agree_with_revealed_facts_at_every_position() -> None:
    generator = generator_for(3, "test")
    world = WorldSettings(unknown_word_rate=0.2)
    stories = [damaged_story(world, generator) for _ in range(5)]
    length = max(len(story.words) for story in stories)
    labels = state_labels(stories, length)
    for row, story in enumerate(stories):
        for position in range(length):
            if position >= len(story.words):
                assert (labels[row, position] == IGNORED).all()
                continue
            facts = story.revealed(position)
            expected = [value_index(a, facts[a]) if a in facts else 0 for a in ATTRIBUTES]
            assert labels[row, position].tolist() == expected


def test_an_untrained_head_costs_the_entropy_of_a_uniform_guess() -> None:
    head = StateHead(8, 50)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    labels = torch.zeros(2, 3, len(ATTRIBUTES), dtype=torch.int64)
    labels[1, 2] = IGNORED
    words = torch.randint(0, 50, (2, 3)).masked_fill(labels[..., 0] == IGNORED, IGNORED)
    sizes = [*(len(values) + 1 for values in ATTRIBUTES.values()), 50]
    expected = sum(math.log(size) for size in sizes) / len(sizes)
    loss = head(torch.randn(2, 3, 8), labels, words)
    assert abs(loss.item() - expected) < 1e-5


def test_damage_hits_about_the_rate_asked_for() -> None:
    generator = generator_for(0, "test")
    world = WorldSettings(unknown_word_rate=0.1)
    words = [word for _ in range(50) for word in damaged_story(world, generator).words]
    assert 0.07 < words.count(UNKNOWN_WORD) / len(words) < 0.13


def test_batches_are_right_padded_and_closed_by_the_end_token() -> None:
    tokenizer = build_tokenizer(512)
    generator = generator_for(1, "test")
    stories = [damaged_story(WorldSettings(), generator) for _ in range(4)]
    batch = batch_of_ids(tokenizer, stories)
    assert batch.shape == (4, 1 + max(len(story.words) for story in stories))
    for row, story in zip(batch.tolist(), stories, strict=True):
        assert tokenizer.convert_ids_to_tokens(row[: len(story.words)]) == list(story.words)
        assert row[len(story.words)] == tokenizer.eos_token_id
        assert set(row[len(story.words) + 1 :]) <= {tokenizer.pad_token_id}


def test_pad_right() -> None:
    assert pad_right([[1], [2, 3], []], 9).tolist() == [[1, 9], [2, 3], [9, 9]]


def test_an_epoch_sees_every_row_once_and_a_step_is_the_whole_cursor() -> None:
    steps = [rows_of_step(10, 4, step, 3, "av") for step in range(10)]
    seen = [row for rows in steps for row in rows]
    assert [sorted(seen[start : start + 10]) for start in range(0, 40, 10)] == [[*range(10)]] * 4
    assert seen[:10] != seen[10:20]
    assert rows_of_step(10, 4, 7, 3, "av") == steps[7]
    assert rows_of_step(10, 4, 7, 4, "av") != steps[7] != rows_of_step(10, 4, 7, 3, "ar")
    many = rows_of_step(3, 7, 0, 0, "av")
    assert sorted(many[:3]) == sorted(many[3:6]) == [0, 1, 2]
