"""The loop that every supervised stage shares: AdamW, warm-up, cosine decay, clipping.

A step with a non-finite gradient leaves the weights as they were and is counted; too many in a
row end the run.
"""

import math
from collections.abc import Callable, Sequence

import torch

from gloss_training.config import OptimizerConfig
from gloss_training.journal import Journal

MAX_SKIPPED_IN_A_ROW = 10


def learning_rate_at(step: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then cosine from `learning_rate` to a tenth of it at the last step."""
    if step < config.num_warmup_steps:
        return config.learning_rate * (step + 1) / config.num_warmup_steps
    span = max(1, config.num_steps - config.num_warmup_steps)
    progress = min(1.0, (step - config.num_warmup_steps) / span)
    return config.learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))


def train(
    parameters: Sequence[torch.nn.Parameter],
    config: OptimizerConfig,
    journal: Journal,
    batch_loss: Callable[[int], dict[str, torch.Tensor]],
) -> dict[str, float]:
    """Minimises `batch_loss(step)["loss"]` in place; its other entries are only recorded.

    Returns the last step's losses and `skipped_steps`. RuntimeError when gradients stay non-finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98))
    num_skipped = skipped_in_a_row = 0
    figures: dict[str, float] = {}
    for step in range(config.num_steps):
        rate = learning_rate_at(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = batch_loss(step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if torch.isfinite(norm):
            optimizer.step()
            skipped_in_a_row = 0
        else:
            num_skipped += 1
            skipped_in_a_row += 1
        figures = {name: float(value.detach()) for name, value in losses.items()}
        journal.step(step, **figures, learning_rate=rate, grad_norm=float(norm))
        if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise RuntimeError(
                f"the gradient was not finite for {skipped_in_a_row} steps in a row, up to step "
                f"{step}; lower the learning rate"
            )
    return {**figures, "skipped_steps": float(num_skipped)}
