"""Rewards of a step -> advantages: against the other samples of a group, over one deviation.

A_i = (r_i - mean of the group's other rewards) / deviation. The mean leaves out sample i itself, so
the expected policy gradient stays exact. A failed response (cut off, no closing tag) has no reward
of its own: it gets its group's worst valid one minus a margin, and the deviation does not see it,
since one such outlier inside it would squeeze the rest. A group without one valid sample says
nothing and gets zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_training.rl.settings import AdvantageSettings


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """Advantages of one step.

    Attributes:
        values: [num_prompts, samples] float32; every group's sum is 0.
        num_dead_groups: groups without one valid sample.
        scale: what they were divided by; the mean over living groups where each has its own.
    """

    values: Tensor
    num_dead_groups: int
    scale: float


def advantages(rewards: Tensor, is_valid: Tensor, settings: AdvantageSettings) -> Advantages:
    """Rewards [p, s] float32 and which responses were valid [p, s] bool -> advantages.

    Rewards of failed responses are not read; they may be NaN. Sums are float64: in float32 a group
    of equal rewards leaves a residue that a small deviation blows up.
    """
    num_samples = rewards.shape[1]
    if num_samples < 2:
        raise ValueError(
            f"rewards: got {num_samples} sample of each activation, expected at least 2: an "
            "advantage is against the others"
        )
    filled = with_failures(rewards.double(), is_valid, settings.failure_margin)
    # s * r_i - sum of r = (s - 1) (r_i - mean of the others)
    centred = (num_samples * filled - filled.sum(1, keepdim=True)) / (num_samples - 1)
    deviation = _deviation(rewards.double(), is_valid, settings)
    alive = is_valid.any(1)
    scale = float(deviation[alive].mean()) if bool(alive.any()) else settings.floor
    values = torch.where(alive[:, None], centred / deviation[:, None], 0.0)
    return Advantages(values=values.float(), num_dead_groups=int((~alive).sum()), scale=scale)


def with_failures(rewards: Tensor, is_valid: Tensor, margin: float) -> Tensor:
    """[p, s] rewards with failed ones set to their group's worst valid one minus `margin`.

    0 throughout a group without a valid one.
    """
    worst = rewards.masked_fill(~is_valid, torch.inf).amin(1, keepdim=True)
    filled = torch.where(is_valid, rewards, worst - margin)
    return torch.where(is_valid.any(1, keepdim=True), filled, 0.0)


def _deviation(rewards: Tensor, is_valid: Tensor, settings: AdvantageSettings) -> Tensor:
    """[p]: what each group's advantages are divided by; at least the floor."""
    num_prompts = len(rewards)
    if settings.scale == "none":
        return rewards.new_ones(num_prompts)
    if settings.scale == "batch":
        whole = _standard_deviation(rewards.reshape(1, -1), is_valid.reshape(1, -1))
        return whole.expand(num_prompts).clamp_min(settings.floor)
    return _standard_deviation(rewards, is_valid).clamp_min(settings.floor)


def _standard_deviation(rewards: Tensor, is_valid: Tensor) -> Tensor:
    """[p, s] -> [p]: of the valid ones of each row about their own mean, over their number."""
    count = is_valid.sum(1, keepdim=True).clamp_min(1)
    known = rewards.masked_fill(~is_valid, 0.0)
    residue = (known - known.sum(1, keepdim=True) / count).masked_fill(~is_valid, 0.0)
    return (residue.square().sum(1) / count[:, 0]).sqrt()
