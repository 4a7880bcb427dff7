"""The loop that every supervised stage shares: micro batches, updates, guard, checkpoints, resume.

A step with a gradient that is not finite leaves the weights as they were and is counted; too many
in a row end the stage. A checkpoint holds masters, moments, counters and random states, and the
step is the data cursor (`batches.rows_of_step`): what goes on is the same run to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloss_training.errors import NotFiniteError
from gloss_training.learning.optimizer import MasterAdamW, learning_rate_at
from gloss_training.learning.progress import Progress
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.settings import SftSettings
from gloss_training.storage import checkpoints

Losses = dict[str, torch.Tensor]
"""`loss`, which is minimised, and what else is recorded; each one micro batch's part of a sum."""


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """What a supervised stage learns.

    Attributes:
        stage: its name.
        weights: all that is trained, under names that stay the same.
        losses: for a step, the losses of each of its micro batches in turn.
        units: for a step, what was learnt from: rows, or tokens.
    """

    stage: str
    weights: Mapping[str, torch.nn.Parameter]
    losses: Callable[[int], Iterator[Losses]]
    units: Callable[[int], int]


def train(
    supervision: Supervision,
    settings: SftSettings,
    progress: Progress,
    folder: Path,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Trains in place, from the newest checkpoint in `folder` if there is one.

    Of several ranks each gives the losses of its share of a step's rows.

    Returns:
        The last step's losses, and `skipped_steps`.

    Raises:
        NotFiniteError: gradients stay without a value.
        DiskError: a checkpoint or the log could not be written.
    """
    optimizer = MasterAdamW(
        supervision.weights,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        betas=(0.9, settings.adam_beta2),
    )
    state: dict[str, Any] = {"num_skipped": 0, "skipped_in_a_row": 0, "figures": {}}
    start = 0
    newest = checkpoints.latest(folder)
    if newest is not None:
        own = checkpoints.named("optimizer", optimizer.tensors())
        start, state = _take_back(checkpoints.load(newest, own), optimizer)
    for step in range(start, settings.num_steps):
        began = time.perf_counter()
        state["figures"] = _step(supervision, settings, optimizer, step, state, ranks)
        seconds = time.perf_counter() - began
        clock = {"seconds": seconds, "units_per_second": supervision.units(step) / seconds}
        progress.step(step, state["figures"], clock)
        # A stage of which no step moved anything has made nothing, however few its steps.
        if state["skipped_in_a_row"] >= min(settings.max_skipped, settings.num_steps):
            raise NotFiniteError(
                f"stage {supervision.stage}: the gradient was not finite for "
                f"{state['skipped_in_a_row']} steps in a row, up to step {step}; the weights are "
                "as before these steps. Lower the learning rate or max_grad_norm, and look for "
                "rows in the data that are not finite"
            )
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.num_steps:
            _save(folder, done, optimizer, state, settings.keep_checkpoints, ranks)
    losses = {n: v for n, v in state["figures"].items() if n not in ("learning_rate", "grad_norm")}
    return {**losses, "skipped_steps": float(state["num_skipped"])}


def _step(
    supervision: Supervision,
    settings: SftSettings,
    optimizer: MasterAdamW,
    step: int,
    state: dict[str, Any],
    ranks: Ranks,
) -> dict[str, float]:
    """One update; its figures, those without a finite value left out: JSON has no word for them."""
    # On the device: whoever reads a loss waits for the pass that gives it.
    sums: dict[str, Tensor] = {}
    for losses in supervision.losses(step):
        losses["loss"].backward()
        optimizer.gather()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
    total = ranks.sum(torch.stack(list(sums.values())))
    totals = dict(zip(sums, total.tolist(), strict=True))
    rate = learning_rate_at(
        step, settings.learning_rate, settings.num_warmup_steps, settings.num_steps
    )
    norm = optimizer.step(rate)
    if math.isfinite(norm):
        state["skipped_in_a_row"] = 0
    else:
        state["num_skipped"] += 1
        state["skipped_in_a_row"] += 1
    figures = {**totals, "learning_rate": rate, "grad_norm": norm}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _save(
    folder: Path,
    step: int,
    optimizer: MasterAdamW,
    state: dict[str, Any],
    keep: int,
    ranks: Ranks,
) -> None:
    tensors = {
        **checkpoints.named("optimizer", optimizer.tensors()),
        **checkpoints.named("random", checkpoints.random_state()),
    }
    checkpoints.save(folder, step, tensors, state, keep=keep, ranks=ranks)


def _take_back(
    checkpoint: checkpoints.Checkpoint, optimizer: MasterAdamW
) -> tuple[int, dict[str, Any]]:
    optimizer.load(checkpoints.part(checkpoint.tensors, "optimizer"))
    checkpoints.set_random_state(checkpoints.part(checkpoint.tensors, "random"))
    return checkpoint.step, checkpoint.state
