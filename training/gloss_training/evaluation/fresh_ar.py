"""An AR that has learnt from the AV's texts alone, and from nothing that the AV was trained with.

AV and AR trained together can agree on a code that nobody else reads. A fresh AR begins as the
target's blocks and meets the AV's texts only as they are: what it finds in them is in the words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gloss_training.learning.progress import Progress
from gloss_training.learning.sft import Lesson, ar_supervision
from gloss_training.learning.supervised import train
from gloss_training.models.model_files import cast_weights
from gloss_training.models.reconstructor import Reconstructor, from_target
from gloss_training.settings import SftSettings


def train_fresh_ar(
    target: Any,
    layer_index: int,
    lesson: Lesson,
    settings: SftSettings,
    *,
    dtype: torch.dtype,
    progress: Progress,
    checkpoints: Path,
) -> Reconstructor:
    """Trains an AR from the target's blocks, as the `ar` stage does.

    Args:
        target: the explained model.
        layer_index: K.
        lesson: the AV's texts and the activations that they are of; none of them held out.
        settings: the `ar` stage's.
        dtype: what it is computed in.
        progress: is told of each step.
        checkpoints: folder of them, to go on from.

    Raises:
        NotFiniteError, DiskError: as `supervised.train`.
    """
    reconstructor = from_target(
        target, layer_index, is_checkpointed=settings.gradient_checkpointing
    )
    reconstructor = cast_weights(reconstructor, dtype).to(lesson.device).train()
    weights = dict(reconstructor.named_parameters())
    supervision = ar_supervision(lesson, settings, reconstructor, weights)
    train(supervision, settings, progress, checkpoints)
    return reconstructor.eval()
