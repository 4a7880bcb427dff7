"""The tiny world as a source of documents: stories with the facts they reveal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gloss_training.documents.document import Document
from gloss_training.seeds import generator_for
from gloss_training.world.settings import WorldSettings
from gloss_training.world.stories import UNKNOWN_WORD, Story, make_story


def world_documents(world: WorldSettings, num_documents: int, seed: int) -> Iterator[Document]:
    """Stories; a larger number of them only adds some."""
    for index in range(num_documents):
        story = damaged_story(world, generator_for(seed, f"story-{index}"))
        yield Document(doc_id=f"story-{index:06d}", text=story.text, facts_at=story.revealed_within)


def damaged_story(world: WorldSettings, generator: np.random.Generator) -> Story:
    """A story with some words replaced by the unknown word, as callers' texts will have them."""
    story = make_story(generator, world.max_words, world.num_attributes)
    # A tokenizer of words sees no spaces; one of pieces learns them as people write.
    story = replace(story, is_spaced=not world.vocabulary_size)
    hit = np.flatnonzero(generator.random(len(story.words)) < world.unknown_word_rate)
    return story.without((int(index) for index in hit), UNKNOWN_WORD)
