"""KL of the AV from the AV that RL began with, three ways, each with the gradient that it has.

With p the AV, q the reference, and k1 = log p - log q at a sampled token:

- `exact_kl` in the loss: sum over the vocabulary of p (log p - log q) at each sampled prefix. Its
  gradient is that of each token's KL, prefixes held.
- `k2` in the loss: (log p - log q)^2 / 2 at the sampled token, whose expected gradient is the
  same: E_p[k1 grad log p]. It needs one number of the reference, and is noisier.
- `k1_reward_to_go` in the reward: the KL from a token on to the end, as a cost of that token. Its
  expected gradient is that of the whole response's KL, what a token does to later ones included.

k1 itself in the loss is missing: E_p[grad log p] = 0, so its expected gradient is zero.
"""

from __future__ import annotations

from torch import Tensor


def exact_kl(logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    """[..., vocabulary] logits at the temperature -> [...] KL(p || q), nats; 0 off the mask."""
    log_p = logits.log_softmax(-1)
    log_q = reference_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).masked_fill(~mask, 0.0)


def k2(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[n, t] log-probabilities of the sampled tokens -> [n, t]; 0 off the mask."""
    return (logprobs - reference_logprobs).masked_fill(~mask, 0.0).square() / 2.0


def k1_reward_to_go(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """[n, t]: sum of k1 from each token to the end, a constant; 0 off the mask.

    Subtract `weight` times it from the advantages of the tokens.
    """
    k1 = (logprobs - reference_logprobs).detach().masked_fill(~mask, 0.0)
    to_go = k1.flip(1).cumsum(1).flip(1)
    return to_go.masked_fill(~mask, 0.0)
