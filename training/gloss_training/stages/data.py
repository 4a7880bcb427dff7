"""The stage `data` of a run: its documents, its reader, its teacher."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gloss_training.capture.readers import ActivationReader, EngineReader, TapReader
from gloss_training.documents.document import Document
from gloss_training.documents.reading import Failure, read_documents
from gloss_training.errors import ConfigError
from gloss_training.run.config import RunConfig
from gloss_training.run.context import Context
from gloss_training.stages.explained_data import DataStage
from gloss_training.teachers.answer_file import ANSWERS_FILE
from gloss_training.teachers.hiring import hire_teacher
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Teacher
from gloss_training.teachers.world_teacher import WorldTeacher
from gloss_training.world.documents import world_documents


def make_data(run: Context) -> dict[str, Any]:
    """Makes the files of every split; their figures.

    Raises:
        ConfigError: settings that no data stage can have, or no key of a teacher that is asked.
        CheckpointError: a target that cannot be read.
        and what `DataStage.run` raises.
    """
    config = run.config
    documents = _documents(config)
    with ExitStack() as undo:
        teacher = teacher_of(config, run.folder.data / ANSWERS_FILE, is_asked=not run.is_dry)
        undo.callback(lambda: asyncio.run(teacher.close()))
        reader = _reader(config, run.target, run.device)
        # From here on the stage lets go of the teacher.
        undo.pop_all()
    stage = DataStage(
        settings=config.data,
        prompt=config.prompt,
        reader=reader,
        teacher=teacher,
        folder=run.folder.data,
        seed=config.seed,
        console=run.console,
    )
    return stage.run(documents, run.confirm)


def teacher_of(
    config: RunConfig,
    answers: Path,
    *,
    settings: TeacherSettings | None = None,
    is_asked: bool = True,
) -> Teacher:
    """Who explains, judges or rewords: the tiny world's grammar, or a teacher behind an API.

    Args:
        config: of the run.
        answers: the file of an API's replies.
        settings: who; None: the run's teacher.
        is_asked: False: it only estimates, and needs no key.

    Raises:
        ConfigError: no key, no client library, or the grammar for another world.
        TeacherError, DiskError: a file of replies that cannot be used.
    """
    settings = settings or config.teacher
    if settings.provider != "world":
        share = config.data.max_dropped_share
        return hire_teacher(settings, answers, max_dropped_share=share, is_asked=is_asked)
    if config.world is None or config.data.documents:
        raise ConfigError(
            "provider: got world for documents that are not the tiny world's, expected anthropic "
            "or openai: its grammar knows no other text"
        )
    return WorldTeacher(
        seed=config.seed,
        num_ending_words=config.world.num_ending_words,
        most_stated=config.world.most_stated,
    )


def _documents(config: RunConfig) -> Iterable[Document | Failure]:
    if config.data.documents:
        return _first(read_documents(Path(config.data.documents)), config.data.num_documents)
    assert config.world is not None
    if not config.data.num_documents:
        raise ConfigError(
            "data.num_documents: got 0, expected how many stories the tiny world is to tell"
        )
    return world_documents(config.world, config.data.num_documents, config.seed)


def _first(given: Iterator[Document | Failure], count: int) -> Iterator[Document | Failure]:
    """The first so many documents, with the failures before them; 0: all."""
    taken = 0
    for row in given:
        yield row
        taken += isinstance(row, Document)
        if count and taken == count:
            return


def _reader(config: RunConfig, target: Path, device: torch.device) -> ActivationReader:
    longest = config.data.max_document_tokens
    if config.data.reader == "engine":
        return EngineReader(
            target, config.layer_index, max_document_tokens=longest, device=device.type
        )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return TapReader(target, config.layer_index, device=device, dtype=dtype)
