"""Stories as the target's training has them: damaged, and as batches of tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from gloss_training.batches import pad_right
from gloss_training.world.grammar import UNKNOWN_WORD
from gloss_training.world.settings import WorldSettings
from gloss_training.world.stories import Story, make_story
from gloss_training.world.tokenizer import word_ids


def damaged_story(world: WorldSettings, generator: np.random.Generator) -> Story:
    """A story with some words replaced by the unknown word, as callers' texts will have them."""
    story = make_story(generator, world.max_words)
    hit = np.flatnonzero(generator.random(len(story.words)) < world.unknown_word_rate)
    return story.without((int(index) for index in hit), UNKNOWN_WORD)


def batch_of_ids(tokenizer: PreTrainedTokenizerFast, stories: Sequence[Story]) -> torch.Tensor:
    """[stories, longest + 1] int64, each story followed by the end token, right-padded."""
    rows = [[*word_ids(tokenizer, story.words), tokenizer.eos_token_id] for story in stories]
    return pad_right(rows, tokenizer.pad_token_id)
