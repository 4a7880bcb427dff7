"""Stories as the target's training has them: batches of tokens, and what each has revealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from gloss_training.batches import pad_right
from gloss_training.world.attributes import value_index
from gloss_training.world.stories import Story

IGNORED: Final = -100
"""Label of what counts nowhere."""


def batch_of_ids(
    tokenizer: PreTrainedTokenizerFast, stories: Sequence[Story]
) -> tuple[torch.Tensor, list[list[int]]]:
    """Token ids, and of each token how many words of the story are whole once it is read.

    The ids are [stories, longest + 1] int64, each story followed by the end token, right-padded.
    """
    found = tokenizer([story.text for story in stories], return_offsets_mapping=True)
    rows = [[*ids, tokenizer.eos_token_id] for ids in found["input_ids"]]
    num_words = [
        [story.num_words_within(end) for _, end in offsets]
        for story, offsets in zip(stories, found["offset_mapping"], strict=True)
    ]
    return pad_right(rows, tokenizer.pad_token_id), num_words


def state_labels(
    stories: Sequence[Story],
    num_words: Sequence[Sequence[int]],
    attributes: Mapping[str, Sequence[str]],
) -> torch.Tensor:
    """[stories, longest, attributes] int64: class of each fact revealed by each token, 0 unknown.

    Args:
        stories: the stories.
        num_words: of each token of each story, how many words are whole once it is read.
        attributes: of the world.

    Tokens past the end of a story are IGNORED.
    """
    longest = max(len(counts) for counts in num_words)
    labels = np.full((len(stories), longest, len(attributes)), IGNORED, dtype=np.int64)
    columns = {name: index for index, name in enumerate(attributes)}
    for row, (story, counts) in enumerate(zip(stories, num_words, strict=True)):
        by_words = np.zeros((len(story.words) + 1, len(attributes)), dtype=np.int64)
        for mention in sorted(story.mentions, key=lambda m: m.position):
            label = value_index(mention.attribute, mention.value)
            by_words[mention.position + 1 :, columns[mention.attribute]] = label
        labels[row, : len(counts)] = by_words[np.array(counts)]
    return torch.from_numpy(labels)
