"""What a step's responses and rewards look like, for the log."""

from __future__ import annotations

import torch
from torch import Tensor

from gloss_training.rl.rewards import Rewards
from gloss_training.rl.rollout import Rollout
from gloss_training.rl.tally import Tally


def describe_responses(rollout: Rollout, max_new_tokens: int, tally: Tally) -> None:
    """Lengths, and how many failed or were cut off."""
    lengths = [len(ids) for ids in rollout.response_ids]
    tally.add("response_tokens", sum(lengths), len(rollout))
    num_full = sum(length >= max_new_tokens for length in lengths)
    tally.add("full_length_rate", num_full, len(rollout))
    tally.add("failure_rate", len(rollout) - sum(rollout.is_valid), len(rollout))


def describe_rewards(rewards: Rewards, mse: Tensor, rollout: Rollout, tally: Tally) -> None:
    """Means over valid responses: the mse, the reward, each of its terms, who has no score."""
    is_valid = torch.tensor(rollout.is_valid)
    count = int(is_valid.sum())
    named = {"mse": mse, "reward": rewards.total}
    named |= {f"reward_{name}": term for name, term in rewards.terms.items()}
    for name, values in named.items():
        tally.add(name, float(values[is_valid].double().sum()), count)
    if rewards.num_unjudged is not None:
        tally.add("unjudged_rate", rewards.num_unjudged, count)
