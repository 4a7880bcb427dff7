"""Log-probabilities and KL of sampled tokens, whose logits are held for a chunk of them at a time.

Logits of 64 responses of 122 tokens over 152,000 words are 4.7 GB in float32, and their gradient is
as much again. So a chunk's logits are made, used and dropped, and made again for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gloss_training.rl.divergence import exact_kl

Head = Callable[[Tensor], Tensor]
"""[m, d] states -> [m, vocabulary] float32 logits."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference's side of the same m tokens.

    Attributes:
        states: [m, d], without a gradient.
        head: its logits.
        has_kl: whether the exact KL is wanted, or its log-probabilities alone.
    """

    states: Tensor
    head: Head
    has_kl: bool


@dataclass(frozen=True, kw_only=True)
class TokenTerms:
    """What the loss needs of each of m tokens, nats.

    Attributes:
        logprobs: [m] under the AV, with a gradient.
        reference_logprobs: [m] under the reference; None without one.
        kl: [m] exact over the vocabulary, with a gradient; None where it is not wanted.
    """

    logprobs: Tensor
    reference_logprobs: Tensor | None = None
    kl: Tensor | None = None


def token_terms(
    states: Tensor,
    token_ids: Tensor,
    head: Head,
    *,
    temperature: float,
    chunk: int,
    reference: Reference | None = None,
    num_chunks: int = 1,
) -> TokenTerms:
    """[m, d] states and the [m] tokens sampled from them -> their terms, `chunk` tokens at a time.

    Args:
        states: of the AV, with a gradient.
        token_ids: [m] int64.
        head: its logits.
        temperature: of all log-probabilities.
        chunk: most tokens whose logits are held at once.
        reference: where its log-probabilities or the KL are wanted.
        num_chunks: least number of chunks, empty ones included: where weights are sharded, all
            ranks must call the heads equally often.
    """

    def of_chunk(span: slice) -> tuple[Tensor, ...]:
        logits = _tempered(head(states[span]), temperature)
        terms = [_chosen(logits, token_ids[span])]
        if reference is not None:
            with torch.no_grad():
                other = _tempered(reference.head(reference.states[span]), temperature)
            terms.append(_chosen(other, token_ids[span]))
            if reference.has_kl:
                everywhere = torch.ones_like(token_ids[span], dtype=torch.bool)
                terms.append(exact_kl(logits, other, everywhere))
        return tuple(terms)

    count = max(num_chunks, -(-len(token_ids) // chunk))
    parts = [
        checkpoint(
            of_chunk,
            slice(index * chunk, (index + 1) * chunk),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for index in range(count)
    ]
    joined = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
    return TokenTerms(
        logprobs=joined[0],
        reference_logprobs=joined[1] if len(joined) > 1 else None,
        kl=joined[2] if len(joined) > 2 else None,
    )


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits at the temperature; at 1, which is usual, the same ones and no copy of them."""
    return logits if temperature == 1.0 else logits / temperature


def _chosen(logits: Tensor, token_ids: Tensor) -> Tensor:
    """[m, vocabulary], [m] -> [m] log-probabilities."""
    picked = logits.gather(-1, token_ids[:, None])[:, 0]
    return picked - logits.logsumexp(-1)
