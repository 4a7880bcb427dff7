"""The RL stage: rollout, what it teaches, weights back to the engine; guards, checkpoints, resume.

A step is a function of the seed, its number and the weights: its rows come from the data cursor
(`batches.rows_of_step`), its draws from a stream of its own. So a run that goes on from a
checkpoint is the same run to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from gloss_training.batches import rows_of_step
from gloss_training.errors import NotFiniteError
from gloss_training.learning.progress import Progress, Sample, Silence
from gloss_training.models.pair import Pair
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.rl.clock import Clock
from gloss_training.rl.learner import Learned, Learner
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.settings import RlSettings
from gloss_training.rl.task import RlTask
from gloss_training.scoring import fve
from gloss_training.seeds import stream_seed
from gloss_training.storage import checkpoints

NUM_SHOWN: Final = 4


class RolloutSource(Protocol):
    """What samples responses: `sampler.Sampler`, or a small one in tests."""

    def sample(
        self, activations: Tensor, seed: int, settings: RlSettings, rows: Tensor | None = None
    ) -> Rollout:
        """Responses to raw activations [num_prompts, d_model]."""

    def load(self, pair: Pair) -> float:
        """Takes the AV's weights; the share of the change that its type lost."""


@dataclass
class _State:
    """What a resumed run needs beside tensors."""

    num_skipped: int = 0
    skipped_in_a_row: int = 0
    figures: dict[str, float] = field(default_factory=dict)


def train_rl(
    pair: Pair,
    sampler: RolloutSource,
    task: RlTask,
    settings: RlSettings,
    *,
    seed: int,
    folder: Path,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Trains a pair in place, from the newest checkpoint in `folder` if there is one.

    Args:
        pair: as RL begins; its reference stays what it is.
        sampler: of the pair's AV.
        task: rows and readers.
        settings: the stage's.
        seed: of rows and draws.
        folder: of this stage's checkpoints.
        progress: is told of each step; None: nobody is.
        ranks: processes that train together.

    Returns:
        The last step's figures, and `skipped_steps`.

    Raises:
        NotFiniteError: too many steps in a row without a finite gradient or a valid response.
        DiskError: a checkpoint could not be written; the older ones are whole.
    """
    told = Silence() if progress is None else progress
    learner = Learner(pair, task, settings, ranks)
    state, start = _State(), 0
    newest = checkpoints.latest(folder)
    if newest is not None:
        start, state = _take_back(checkpoints.load(newest, learner.tensors()), learner)
    sampler.load(pair)
    for step in range(start, settings.num_steps):
        clock = Clock(learner.device)
        with clock.phase("seconds"):
            rollout, learned = _step(learner, sampler, step, seed, clock)
        _count(state, learned, step)
        told.step(step, state.figures, _speed(clock, len(rollout) * ranks.count))
        _refuse_to_go_on(state, settings, step)
        done = step + 1
        if done % settings.checkpoint_every == 0 or done == settings.num_steps:
            told.samples(step, _samples(rollout, learned, task))
            # After the last step too: the pair is still to be written, and may find no room.
            _save(folder, done, learner, state)
    return {**state.figures, "skipped_steps": float(state.num_skipped)}


def _step(
    learner: Learner, sampler: RolloutSource, step: int, seed: int, clock: Clock
) -> tuple[Rollout, Learned]:
    """One rollout, what it teaches, and the weights back to the sampler."""
    task, settings, ranks = learner.task, learner.settings, learner.ranks
    chosen = rows_of_step(len(task.activations), settings.prompts_per_step, step, seed, "rl")
    rows = torch.tensor(chosen)[ranks.share(settings.prompts_per_step)]
    use = f"rollout-{step}" if ranks.is_first else f"rollout-{step}-rank-{ranks.index}"
    with clock.phase("rollout_seconds"):
        rollout = sampler.sample(
            task.activations[rows], stream_seed(seed, use), settings, rows=rows
        )
    learned = learner.learn(rollout, step, clock)
    if settings.trains_av and learned.has_moved:
        with clock.phase("load_seconds"):
            learned.figures["lost_in_rounding"] = sampler.load(learner.pair)
    return rollout, learned


def _count(state: _State, learned: Learned, step: int) -> None:
    state.figures = learned.figures
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if learned.is_skipped else 0
    state.num_skipped += learned.is_skipped


def _refuse_to_go_on(state: _State, settings: RlSettings, step: int) -> None:
    # A stage of which no step moved anything has made nothing, however few its steps.
    if state.skipped_in_a_row < min(settings.max_skipped, settings.num_steps):
        return
    figures = state.figures
    if figures["failure_rate"] == 1.0:
        raise NotFiniteError(
            f"stage rl: no response was closed by its tag for {state.skipped_in_a_row} steps in a "
            f"row, up to step {step}; the weights are as before these steps. Raise "
            "rl.max_new_tokens, or train the AV longer in stage av"
        )
    raise NotFiniteError(
        f"stage rl: a gradient was not finite for {state.skipped_in_a_row} steps in a row, up to "
        f"step {step}; the weights are as before these steps. Lower rl.av_learning_rate and "
        "rl.ar_learning_rate, and look for rows in the data that are not finite"
    )


def _speed(clock: Clock, num_responses: int) -> dict[str, float]:
    total = clock.seconds["seconds"]
    return {
        **clock.seconds,
        "samples_per_second": num_responses / total,
        "rollout_share": clock.seconds["rollout_seconds"] / total,
    }


def _samples(rollout: Rollout, learned: Learned, task: RlTask) -> list[Sample]:
    """The first explanation of a few activations."""
    shown = []
    for place, row in list(enumerate(rollout.rows.tolist()))[:NUM_SHOWN]:
        index = place * rollout.samples_per_prompt
        mse = learned.mse[index : index + 1]
        figures = {"fve": fve(mse, task.fve_baseline)} if rollout.is_valid[index] else {}
        text = rollout.explanations[index] or "(cut off)"
        shown.append(Sample(text=task.texts[row], explanation=text, figures=figures))
    return shown


def _save(folder: Path, step: int, learner: Learner, state: _State) -> None:
    tensors = {
        **learner.tensors(),
        **checkpoints.named("random", checkpoints.random_state()),
    }
    keep = learner.settings.keep_checkpoints
    checkpoints.save(folder, step, tensors, vars(state), keep=keep, ranks=learner.ranks)


def _take_back(checkpoint: checkpoints.Checkpoint, learner: Learner) -> tuple[int, _State]:
    learner.load(checkpoint.tensors)
    checkpoints.set_random_state(checkpoints.part(checkpoint.tensors, "random"))
    return checkpoint.step, _State(**checkpoint.state)
