"""A policy so small that every response it can give is listed: expectations without sampling.

Four tokens, of which the last ends a response, and at most three steps: 13 prefixes with logits of
their own, 40 responses. All in float64.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

NUM_TOKENS = 4
END = 3
MAX_TOKENS = 3
PREFIXES = tuple(
    prefix
    for length in range(MAX_TOKENS)
    for prefix in itertools.product(range(END), repeat=length)
)
RESPONSES = tuple(
    (*prefix, token)
    for prefix in PREFIXES
    for token in range(NUM_TOKENS)
    if token == END or len(prefix) == MAX_TOKENS - 1
)


def draw_logits(seed: int, *, spread: float = 1.0) -> Tensor:
    """[13, 4] float64 logits of a policy."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(len(PREFIXES), NUM_TOKENS, generator=generator, dtype=torch.float64)


def draw_rewards(seed: int) -> Tensor:
    """[40] float64: one reward for each response."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(RESPONSES), generator=generator, dtype=torch.float64)


def token_ids() -> Tensor:
    """[40, 3] int64, filled with 0 on the right."""
    return torch.tensor([[*r, *[0] * (MAX_TOKENS - len(r))] for r in RESPONSES])


def mask() -> Tensor:
    """[40, 3] bool: which tokens are real."""
    lengths = torch.tensor([len(response) for response in RESPONSES])
    return torch.arange(MAX_TOKENS) < lengths[:, None]


def prefix_rows() -> Tensor:
    """[40, 3] int64: which row of the logits each token was drawn from; 0 off the mask."""
    rows = torch.zeros(len(RESPONSES), MAX_TOKENS, dtype=torch.int64)
    for index, response in enumerate(RESPONSES):
        for step in range(len(response)):
            rows[index, step] = PREFIXES.index(response[:step])
    return rows


def logprobs(logits: Tensor) -> Tensor:
    """[40, 3] log-probabilities of each token of each response; off the mask of no meaning."""
    chosen: Tensor = logits.log_softmax(-1)[prefix_rows(), token_ids()]
    return chosen


def probabilities(logits: Tensor) -> Tensor:
    """[40] of each response, with a gradient; their sum is 1."""
    return logprobs(logits).masked_fill(~mask(), 0.0).sum(1).exp()


def prefix_probabilities(logits: Tensor) -> list[float]:
    """Of reaching each prefix, by multiplying plain numbers."""
    table = logits.detach().softmax(-1).tolist()
    return [
        math.prod(table[PREFIXES.index(prefix[:i])][prefix[i]] for i in range(len(prefix)))
        for prefix in PREFIXES
    ]


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    """d value / d logits, [13, 4]."""
    (found,) = torch.autograd.grad(value, logits, retain_graph=True)
    return found
