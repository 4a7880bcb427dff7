"""Ten RL steps in processes of their own that start fast and die when told.

A server process imports torch once and forks a child for each run.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from gloss_training.learning.progress import Silence
from gloss_training.rl.settings import KlSettings
from gloss_training.rl.trainer import train_rl
from gloss_training.storage import checkpoints
from support.rl_runs import SETTINGS, PairSampler, make_pair, make_task

TEN_STEPS: Final = replace(
    SETTINGS,
    num_steps=10,
    prompts_per_step=2,
    checkpoint_every=5,
    kl=KlSettings(kind="exact", weight=0.1),
)
_MODELS: Final = tuple(
    f"transformers.models.{name}.modeling_{name}" for name in ("qwen2", "qwen3", "llama", "gemma3")
)


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a run kills itself, as `kill -9` would.

    Attributes:
        at_step: when this step has been told, and before anything that follows.
        in_save: while the checkpoint of this step is being written: all of it is on the disk, but
            it has no name yet.
    """

    at_step: int | None = None
    in_save: int | None = None


class _Lines(Silence):
    """Writes a line a step, then dies where it is told to."""

    def __init__(self, path: Path, death: Death) -> None:
        self._path, self._death = path, death

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": index, **figures}) + "\n")
        if index == self._death.at_step:
            _die()


def ten_steps(folder: Path, death: Death | None = None) -> int:
    """Runs or goes on with the run in `folder`, to its end; the status, negative for a signal.

    Its lines are in steps.jsonl, and in `digest` what became of all weights.
    """
    context = multiprocessing.get_context("forkserver")
    # The server has no path to this file, but to what takes long to import.
    context.set_forkserver_preload(
        ["gloss_training.models.full_pair", "gloss_training.rl.trainer", *_MODELS]
    )
    process = context.Process(target=_child, args=(folder, death or Death()))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process did not end")
    return process.exitcode


def _child(folder: Path, death: Death) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if death.in_save is not None:
        _arm(death.in_save)
    pair = make_pair()
    train_rl(
        pair,
        PairSampler(pair),
        make_task(pair.reconstructor.value_head.in_features),
        TEN_STEPS,
        seed=1,
        folder=folder / "checkpoints",
        progress=_Lines(folder / "steps.jsonl", death),
    )
    digest = hashlib.sha256()
    for weights in (pair.av_weights(), pair.ar_weights()):
        for name, weight in weights:
            digest.update(name.encode() + weight.numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest(), encoding="utf-8")


def _arm(step: int) -> None:
    """Dies where the checkpoint of `step` would get its name."""
    rename = os.rename

    def dying(source: Path, target: Path) -> None:
        if Path(target).name == f"step-{step:08d}":
            _die()
        rename(source, target)

    checkpoints.os.rename = dying  # type: ignore[assignment]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
