"""One token per row: penalty, temperature, top-k, top-p, min-p, then inversion of the distribution.

    l_v  <- l_v / penalty if l_v > 0 else l_v * penalty         for tokens already generated
    p    =  softmax(l / T)                                      T = 0 counts as 1 here
    keep =  {v : p_v >= the k-th largest, the mass above p_v < top_p * mass(top-k),
                 p_v >= min_p * max p}
    T = 0:  token = argmax l      else: first v in vocabulary order with cumsum(p[keep]) > u * mass
    logprob = log p_token

Tokens of equal probability are kept or dropped together, so no order among ties matters.
Inversion goes by blocks: sums of 128 tokens first, then inside one block. Reads the logits once
for the softmax and once for the sums; rows with a threshold are read again.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 128
_NUM_CANDIDATES = 1024
"""Largest probabilities looked at for top-k and top-p before falling back to a full sort: a top-p
of 0.95 rarely reaches further, and a partial sort of 152k is ~20x cheaper than a full one."""


def sample(
    logits: Tensor,
    uniforms: Tensor | None,
    *,
    temperatures: Tensor,
    any_greedy: bool = True,
    top_ks: Tensor | None = None,
    top_ps: Tensor | None = None,
    min_ps: Tensor | None = None,
    penalties: Tensor | None = None,
    presence: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the next token of every row.

    Args:
        logits: [n, vocab_size] float32, bfloat16 or float16; float32 may be overwritten.
        uniforms: [n] float32 in (0, 1). None: every row is greedy.
        temperatures: [n] float32; 0 means greedy.
        any_greedy: False where the caller knows that no row is, which saves the argmax.
        top_ks: [n] int64, 0 for no limit. None (here and below): no row uses the filter.
        top_ps: [n] float32, 1 for no limit.
        min_ps: [n] float32, 0 for no limit.
        penalties: [n] float32 repetition penalties, 1 for none.
        presence: [n, ceil(vocab_size / 32)] int32 bitmap of the tokens the row has generated, bit
            v % 32 of word v // 32 for token v; needed with penalties.

    Returns:
        tokens [n] int64; logprobs [n] float32, log-softmax(logits / T) at the token after the
        penalty and before truncation, nats; finite [n] bool, False where a logit was NaN or
        infinite (token and logprob of such a row mean nothing).
    """
    logits = logits.float()
    if penalties is not None:
        assert presence is not None
        _penalise(logits, penalties, presence)
    maxima = _block_maxima(logits)
    finite = torch.isfinite(logits.amin(dim=-1)) & torch.isfinite(maxima.amax(dim=-1))
    best = _first_maximum(logits, maxima) if any_greedy or uniforms is None else None
    logits /= torch.where(temperatures == 0, 1.0, temperatures).unsqueeze(1)
    probs = torch.softmax(logits, dim=-1)
    if uniforms is None:
        assert best is not None
        tokens = best
    else:
        kept = probs
        if top_ks is not None or top_ps is not None or min_ps is not None:
            kept = _truncate(probs, top_ks, top_ps, min_ps)
        tokens = _invert(kept, uniforms)
        if best is not None:
            tokens = torch.where(temperatures == 0, best, tokens)
    logprobs = probs.gather(1, tokens.unsqueeze(1)).squeeze(1).log()
    return tokens, logprobs, finite


def _penalise(logits: Tensor, penalties: Tensor, presence: Tensor) -> None:
    """Apply the penalty in place; touches only the few tokens that are present."""
    rows, words = presence.nonzero(as_tuple=True)
    shifts = torch.arange(32, dtype=torch.int32, device=presence.device)
    at, bit = (presence[rows, words].unsqueeze(1) >> shifts & 1).nonzero(as_tuple=True)
    rows, tokens = rows[at], words[at] * 32 + bit
    present, factor = logits[rows, tokens], penalties[rows]
    logits[rows, tokens] = torch.where(present > 0, present / factor, present * factor)


def _by_block(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Views of rows [n, v]: full blocks [n, v // 128, 128] and the tail [n, v % 128]."""
    num_full = rows.shape[1] // _BLOCK
    full = rows[:, : num_full * _BLOCK].unflatten(1, (num_full, _BLOCK))
    return full, rows[:, num_full * _BLOCK :]


def _block_maxima(logits: Tensor) -> Tensor:
    """Maximum of every block, [n, ceil(vocab_size / 128)]."""
    full, tail = _by_block(logits)
    maxima = full.amax(dim=-1)
    if tail.shape[1]:
        maxima = torch.cat((maxima, tail.amax(dim=-1, keepdim=True)), dim=1)
    return maxima


def _first_maximum(logits: Tensor, maxima: Tensor) -> Tensor:
    """argmax by way of the block maxima, [n]: a plain argmax over a long row is not vectorised."""
    block = maxima.argmax(dim=-1, keepdim=True)
    index = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    inside = logits.gather(1, index.clamp_max(logits.shape[1] - 1))
    return index.gather(1, inside.argmax(dim=-1, keepdim=True)).squeeze(1)


def _truncate(
    probs: Tensor, top_ks: Tensor | None, top_ps: Tensor | None, min_ps: Tensor | None
) -> Tensor:
    """A copy of probs [n, vocab_size] with what the filters drop set to 0; not renormalised."""
    threshold = probs.new_zeros(probs.shape[0])
    if top_ks is not None or top_ps is not None:
        num_candidates = min(_NUM_CANDIDATES, probs.shape[1])
        ordered = probs.topk(num_candidates, dim=-1).values
        threshold, settled = _thresholds(probs, ordered, top_ks, top_ps)
        if not bool(settled.all()):
            rows = (~settled).nonzero().squeeze(1)
            full = probs[rows].sort(dim=-1, descending=True).values
            ks = None if top_ks is None else top_ks[rows]
            ps = None if top_ps is None else top_ps[rows]
            threshold[rows] = _thresholds(probs[rows], full, ks, ps)[0]
    if min_ps is not None:
        threshold = torch.maximum(threshold, min_ps * probs.amax(dim=-1))
    return probs.masked_fill(probs < threshold.unsqueeze(1), 0.0)


def _thresholds(
    probs: Tensor, ordered: Tensor, top_ks: Tensor | None, top_ps: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The smallest probability that top-k and top-p keep, and where `ordered` was long enough.

    Args:
        probs: [n, vocab_size].
        ordered: [n, m] the m largest of each row, descending.

    Returns:
        threshold [n] and settled [n] bool; an unsettled row needs a longer `ordered`.
    """
    m, vocab_size = ordered.shape[1], probs.shape[1]
    kth = torch.zeros_like(ordered[:, 0])
    settled = torch.ones_like(kth, dtype=torch.bool)
    mass = torch.ones_like(kth, dtype=torch.float64)
    if top_ks is not None:
        limited = (top_ks > 0) & (top_ks < vocab_size)
        index = (top_ks - 1).clamp(0, m - 1).unsqueeze(1)
        kth = torch.where(limited, ordered.gather(1, index).squeeze(1), 0.0)
        settled = ~limited | (top_ks <= m)
        if top_ps is not None:
            mass = probs.masked_fill(probs < kth.unsqueeze(1), 0.0).sum(-1, dtype=torch.float64)
    if top_ps is None:
        return kth, settled
    above = ordered.double().cumsum(dim=-1)
    target = top_ps.double() * mass
    inside = (above - ordered) < target.unsqueeze(1)
    count = inside.sum(dim=-1).clamp_min(1)
    nucleus = ordered.gather(1, (count - 1).unsqueeze(1)).squeeze(1)
    limited = top_ps < 1
    settled = settled & (~limited | (count < m) | (m == vocab_size))
    return torch.maximum(kth, torch.where(limited, nucleus, 0.0)), settled


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """First index per row where the running sum of weights [n, v] exceeds u * total, [n] int64."""
    vocab_size = weights.shape[1]
    full, tail = _by_block(weights)
    sums = full.sum(dim=-1)
    if tail.shape[1]:
        sums = torch.cat((sums, tail.sum(dim=-1, keepdim=True)), dim=1)
    running = sums.double().cumsum(dim=-1)
    target = uniforms.double().unsqueeze(1) * running[:, -1:]
    block = torch.searchsorted(running, target, right=True).clamp_max(sums.shape[1] - 1)
    before = (running.gather(1, block) - sums.gather(1, block)).clamp_min(0.0)
    index = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, index.clamp_max(vocab_size - 1))
    inside = inside.masked_fill(index >= vocab_size, 0.0)
    # Rounding may leave the target just before the block, where a token of no weight would pass,
    # or just past its end: take the first and the last token of any weight.
    weighted = inside > 0
    passed = (inside.double().cumsum(dim=-1) > (target - before)) & weighted
    last = _BLOCK - 1 - weighted.flip(1).to(torch.uint8).argmax(dim=-1)
    first = passed.to(torch.uint8).argmax(dim=-1)
    within = torch.where(passed.any(dim=-1), first, last)
    return (block.squeeze(1) * _BLOCK + within).clamp_max(vocab_size - 1)
