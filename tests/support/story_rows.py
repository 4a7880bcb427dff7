"""Rows of the tiny world's stories with the teacher's words and random vectors."""

from __future__ import annotations

import asyncio

import torch

from gloss_training.dataset.rows import Rows
from gloss_training.passage import Passage
from gloss_training.teachers.world_teacher import WorldTeacher
from gloss_training.world.documents import world_documents
from gloss_training.world.settings import WorldSettings


def story_rows(num_stories: int, *, d_model: int = 32, seed: int = 0) -> Rows:
    """Three rows of each story."""
    passages = [
        Passage(
            doc_id=document.doc_id,
            position=position,
            text=text,
            facts=document.facts_at(len(text)) if document.facts_at else None,
        )
        for document in world_documents(WorldSettings(), num_stories, seed)
        for position in (9, 14, 21)
        for text in [" ".join((document.text or "").split(" ")[: position + 1])]
    ]
    teacher = WorldTeacher(seed=0, num_ending_words=1)
    answers = asyncio.run(teacher.explain(passages, lambda answer: None))
    generator = torch.Generator().manual_seed(seed)
    return Rows(
        activations=torch.randn(len(passages), d_model, generator=generator),
        explanations=tuple(answer.text for answer in answers),
        texts=tuple(passage.text for passage in passages),
        doc_ids=tuple(passage.doc_id for passage in passages),
        positions=tuple(passage.position for passage in passages),
        facts=tuple(passage.facts or {} for passage in passages),
    )
