"""The stage `target` of the tiny world: its language model, trained from scratch."""

from __future__ import annotations

from typing import Any

from gloss_training.errors import ConfigError
from gloss_training.release.sidecars import save_target
from gloss_training.run.context import Context
from gloss_training.world.target import train_target
from gloss_training.world.tokenizer import build_tokenizer


def make_target(run: Context) -> dict[str, Any]:
    """Trains the tiny world's target; its figures.

    Raises:
        ConfigError: [target] names a model that is there already.
    """
    world = run.config.world
    if world is None:
        raise ConfigError("stage target trains the tiny world's; [target] names one that is there")
    tokenizer = build_tokenizer(world, run.config.seed)
    with run.journal("target", world.training.num_steps) as journal:
        model, figures = train_target(
            world,
            run.config.seed,
            tokenizer,
            journal,
            run.folder.checkpoints("target"),
            device=run.device,
            dtype=run.dtype,
        )
    save_target(model, tokenizer, run.folder.target)
    return {"parameters": model.num_parameters(), **figures}
