"""The tiny world as a source of documents: stories with the facts they reveal."""

from __future__ import annotations

from collections.abc import Iterator

from gloss_training.documents.document import Document
from gloss_training.seeds import generator_for
from gloss_training.world.settings import WorldSettings
from gloss_training.world.target_batches import damaged_story


def world_documents(world: WorldSettings, num_documents: int, seed: int) -> Iterator[Document]:
    """Stories, one word a token; a larger number of them only adds some."""
    for index in range(num_documents):
        story = damaged_story(world, generator_for(seed, f"story-{index}"))
        yield Document(
            doc_id=f"story-{index:06d}", text=" ".join(story.words), facts_at=story.revealed
        )
