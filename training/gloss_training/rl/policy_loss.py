"""The policy loss: advantages times ratios, summed over tokens, over one fixed length for all.

    L = - sum_i sum_t w_it min(rho_it A_it, clip(rho_it) A_it) / (num_responses * max_tokens)

rho = pi / pi_old is 1 (and its gradient that of log pi) where a rollout has one update; with
several it moves, and clipping matters. w = min(pi_old / mu, cap) corrects for the engine mu that
sampled: a constant, one for each token. The divisor is the longest response there can be, not each
response's own length, which would pay long failures and short successes (the 1/|o| bias).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The loss and what to watch beside it; figures are means over real tokens.

    Figures stay on the device, float64: whoever reads one waits for all that was launched before.

    Attributes:
        loss: scalar, with a gradient.
        ratio_mean: of pi_old / mu before the cap; 1 where engine and trainer agree.
        clipped_share: of tokens whose weight met the cap or whose ratio was clipped.
        k3: of x - 1 - log x for x = pi_old / mu: the KL from the engine, in nats, never negative.
    """

    loss: Tensor
    ratio_mean: Tensor
    clipped_share: Tensor
    k3: Tensor


def policy_loss(
    logprobs: Tensor,
    engine_logprobs: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    max_tokens: int,
    num_responses: int,
    importance_cap: float,
    clip_ratio: float | None = None,
    old_logprobs: Tensor | None = None,
) -> PolicyLoss:
    """The loss of a micro batch; the losses of a batch's micro batches add up to the batch's.

    Args:
        logprobs: [n, t] of the sampled tokens under the AV, with a gradient, nats.
        engine_logprobs: [n, t] as the engine gave them.
        mask: [n, t] bool, which are real; the others are not read and get no gradient.
        advantages: [n], or [n, t] where each token has its own.
        max_tokens: longest response that a rollout allows.
        num_responses: of the whole batch, failed ones too.
        importance_cap: most weight of a token; math.inf leaves the weights as they are.
        clip_ratio: how far rho may go from 1 before its gradient ends; None: anywhere.
        old_logprobs: [n, t] before the rollout's first update; None: this is the first.
    """
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    weights = importance_weights(old, engine_logprobs, mask, importance_cap)
    ratio = (logprobs - old).masked_fill(~mask, 0.0).exp()
    each = advantages[:, None] if advantages.ndim == 1 else advantages
    gain = ratio * each
    is_clipped = torch.zeros_like(mask)
    if clip_ratio is not None:
        held = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio) * each
        is_clipped = held < gain
        gain = torch.minimum(gain, held)
    total = (weights * gain).masked_fill(~mask, 0.0).sum()
    log_ratio = (old - engine_logprobs).detach().masked_fill(~mask, 0.0).double()
    count = mask.sum().clamp_min(1)
    is_clipped = (is_clipped | (log_ratio > math.log(importance_cap))) & mask
    return PolicyLoss(
        loss=-total / (num_responses * max_tokens),
        ratio_mean=log_ratio.exp().masked_fill(~mask, 0.0).sum() / count,
        clipped_share=is_clipped.sum().double() / count,
        k3=(log_ratio.expm1() - log_ratio).sum() / count,
    )


def importance_weights(
    logprobs: Tensor, engine_logprobs: Tensor, mask: Tensor, cap: float
) -> Tensor:
    """[n, t]: min(pi / mu, cap) of each token, a constant; 0 where the mask is False."""
    log_ratio = (logprobs - engine_logprobs).detach().masked_fill(~mask, 0.0)
    return log_ratio.clamp_max(math.log(cap)).exp().masked_fill(~mask, 0.0)
