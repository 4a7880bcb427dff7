"""State labels, the state head's loss, and padding of story batches."""

import math
from pathlib import Path

import pytest
import torch

from gloss_training.batches import pad_right, rows_of_step
from gloss_training.learning.progress import Silence
from gloss_training.seeds import generator_for
from gloss_training.settings import SftSettings
from gloss_training.world import tokenizer as tokenizer_module
from gloss_training.world.attributes import ATTRIBUTES, attributes_of, value_index
from gloss_training.world.documents import damaged_story
from gloss_training.world.settings import ShapeSettings, WorldSettings
from gloss_training.world.stories import UNKNOWN_WORD
from gloss_training.world.target import StateHead, train_target
from gloss_training.world.target_batches import IGNORED, batch_of_ids, state_labels
from gloss_training.world.tokenizer import build_tokenizer


@pytest.mark.parametrize(
    "world",
    [
        WorldSettings(unknown_word_rate=0.2),
        WorldSettings(num_attributes=16, vocabulary_size=512, unknown_word_rate=0.2),
    ],
    ids=["words", "pieces"],
)
def test_labels_agree_with_revealed_facts_at_every_token(
    world: WorldSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "NUM_STORIES_OF_PIECES", 30)
    generator = generator_for(3, "test")
    tokenizer = build_tokenizer(world, 0)
    stories = [damaged_story(world, generator) for _ in range(5)]
    token_ids, num_words = batch_of_ids(tokenizer, stories)
    attributes = attributes_of(world.num_attributes)
    labels = state_labels(stories, num_words, attributes)
    assert labels.shape == (5, token_ids.shape[1] - 1, world.num_attributes)
    for row, story in enumerate(stories):
        count = len(num_words[row])
        assert (labels[row, count:] == IGNORED).all()
        assert token_ids[row, count] == tokenizer.eos_token_id
        for position in range(count):
            facts = story.revealed(position)
            if world.vocabulary_size:
                read = tokenizer.decode(token_ids[row, : position + 1])
                assert story.text.startswith(read)
                facts = story.revealed_within(len(read))
            expected = [value_index(a, facts[a]) if a in facts else 0 for a in attributes]
            assert labels[row, position].tolist() == expected
    parts = sum(len(counts) for counts in num_words) - sum(len(s.words) for s in stories)
    assert (parts > 50) == bool(world.vocabulary_size)


def test_an_untrained_head_costs_the_entropy_of_a_uniform_guess() -> None:
    head = StateHead(8, 50, ATTRIBUTES)
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
    tokenizer = build_tokenizer(WorldSettings(), 0)
    generator = generator_for(1, "test")
    stories = [damaged_story(WorldSettings(), generator) for _ in range(4)]
    batch, num_words = batch_of_ids(tokenizer, stories)
    assert num_words == [[*range(1, 1 + len(story.words))] for story in stories]
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


def test_in_bfloat16_the_same_is_learnt_and_weights_stay_float32(tmp_path: Path) -> None:
    shape = ShapeSettings(hidden_size=32, intermediate_size=64, num_heads=2, num_kv_heads=1)
    training = SftSettings(num_steps=3, batch_size=4, learning_rate=1e-3)
    world = WorldSettings(shape=shape, training=training)
    tokenizer = build_tokenizer(world, 0)
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, figures = train_target(
            world,
            0,
            tokenizer,
            Silence(),
            tmp_path / str(dtype),
            device=torch.device("cpu"),
            dtype=dtype,
        )
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        losses[dtype] = figures["loss"]
    assert losses[torch.float32] != losses[torch.bfloat16]
    # Eight bits: each term of the loss, of about 30 in all, to within a percent.
    assert losses[torch.float32] == pytest.approx(losses[torch.bfloat16], rel=1e-2)
