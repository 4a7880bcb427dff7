"""Stories as token batches: the text side of every stage. Activations are activations.py's part."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from gloss_training.config import DataConfig
from gloss_training.teacher import UNKNOWN_WORD
from gloss_training.tokenizer import word_ids
from gloss_training.world import Story, make_story


def damaged_story(data: DataConfig, generator: np.random.Generator) -> Story:
    """A story with some words replaced by the unknown word, as callers' texts will have them."""
    story = make_story(generator, data.max_words)
    hit = np.flatnonzero(generator.random(len(story.words)) < data.unknown_word_rate)
    return story.without((int(index) for index in hit), UNKNOWN_WORD)


def batch_of_ids(tokenizer: PreTrainedTokenizerFast, stories: Sequence[Story]) -> torch.Tensor:
    """[stories, longest + 1] int64, each story followed by the end token, right-padded."""
    rows = [[*word_ids(tokenizer, story.words), tokenizer.eos_token_id] for story in stories]
    return pad_right(rows, tokenizer.pad_token_id)


def pad_right(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """[rows, longest] int64, short rows filled with `value` on the right."""
    length = max(len(row) for row in rows)
    batch = torch.full((len(rows), length), value, dtype=torch.int64)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return batch
