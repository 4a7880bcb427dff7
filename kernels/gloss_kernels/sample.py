"""One token per row on a GPU: the definition is `gloss_kernels.reference.sample`.

    l_v  <- l_v / penalty if l_v > 0 else l_v * penalty         for tokens already generated
    w_v  =  exp((l_v - max l) / T)                              T = 0 counts as 1 here
    keep =  {v : l_v >= threshold}                              see `sample_threshold`
    T = 0:  token = first argmax l    else: first v with sum{w_kept : up to v} > u * sum{w_kept}
    logprob = (l_token - max l) / T - log sum w

Reads the logits once, n * vocab_size elements in their own type, and a bit of the presence map for
each where there are penalties. One program a tile of 4,096 tokens leaves its maximum and its mass;
one program a row then finds the tile that the uniform falls into and reads that tile again. Rows
with top-k, top-p or min-p are read a few times more, from L2. Two launches, or three.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.launch import next_power_of_2
from gloss_kernels.sample_threshold import (
    _threshold_kernel,
    inverse_temperature,
    penalise,
    usable,
)

_TILE = 4096
_WORD = 32
_WIDTH = 4
"""Tokens a thread of the threshold's program takes at a time; 8 of 16 bits did not fit into the 64
registers that let two programs share a multiprocessor."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE_WARPS = 4
_THRESHOLD_WARPS = 16
_CHOOSE_WARPS = 16
"""Chosen, not swept: no GPU was at hand. A tile is 32 elements a thread, loads of 16 bytes; the
threshold's program reads a row of L2 on its own and so needs many loads in flight."""


@triton.jit
def _tile_kernel(
    logits_ptr, presence_ptr, temperatures_ptr, penalties_ptr,
    maxima_ptr, minima_ptr, masses_ptr, firsts_ptr, finite_ptr,
    vocab_size, num_tiles, logits_stride, presence_stride,
    HAS_PENALTY: tl.constexpr, HAS_GREEDY: tl.constexpr, HAS_FILTERS: tl.constexpr,
    TILE: tl.constexpr, WORD: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    # A row of the tile is a word of the presence map.
    word = tile * (TILE // WORD) + tl.arange(0, TILE // WORD)[:, None]
    bit = tl.arange(0, WORD)[None, :]
    index = word * WORD + bit
    inside = index < vocab_size
    logits = tl.load(logits_ptr + row * logits_stride + index, mask=inside, other=0.0)
    logits = logits.to(tl.float32)
    if HAS_PENALTY:
        in_map = word * WORD < vocab_size
        words = tl.load(presence_ptr + row * presence_stride + word, mask=in_map, other=0)
        logits = penalise(logits, words, bit, tl.load(penalties_ptr + row))
    finite = tl.min((tl.abs(logits) < float("inf")).to(tl.int32))
    logits = usable(logits, inside)
    maximum = tl.max(logits)
    scale = inverse_temperature(tl.load(temperatures_ptr + row))
    mass = tl.sum(tl.exp((logits - maximum) * scale))
    out = row * num_tiles + tile
    tl.store(maxima_ptr + out, maximum)
    tl.store(masses_ptr + out, mass)
    tl.store(finite_ptr + out, finite.to(tl.int8))
    if HAS_GREEDY:
        tl.store(firsts_ptr + out, tl.min(tl.where(logits == maximum, index, vocab_size)))
    if HAS_FILTERS:
        tl.store(minima_ptr + out, tl.min(tl.where(inside, logits, float("inf"))))


@triton.jit
def _choose_kernel(
    logits_ptr, presence_ptr, uniforms_ptr, temperatures_ptr, penalties_ptr,
    maxima_ptr, masses_ptr, firsts_ptr, finite_ptr, kept_ptr, thresholds_ptr,
    tokens_ptr, logprobs_ptr, row_finite_ptr,
    vocab_size, num_tiles, logits_stride, presence_stride,
    HAS_PENALTY: tl.constexpr, HAS_GREEDY: tl.constexpr, HAS_FILTERS: tl.constexpr,
    HAS_DRAWS: tl.constexpr, TILE: tl.constexpr, NUM_TILES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, NUM_TILES)
    real = tile < num_tiles
    at = row * num_tiles + tile
    temperature = tl.load(temperatures_ptr + row)
    scale = inverse_temperature(temperature)
    maxima = tl.load(maxima_ptr + at, mask=real, other=float("-inf"))
    maximum = tl.max(maxima, axis=0)
    # Sums over tiles and in the tile are float64: the uniform's edges lie where they should.
    factors = tl.exp((maxima - maximum) * scale).to(tl.float64)
    masses = tl.load(masses_ptr + at, mask=real, other=0.0)
    total = tl.sum(masses * factors, axis=0)
    token = vocab_size
    logit = maximum
    if HAS_GREEDY:
        firsts = tl.load(firsts_ptr + at, mask=real, other=vocab_size)
        token = tl.min(tl.where(maxima == maximum, firsts, vocab_size), axis=0)
    if HAS_DRAWS and (not HAS_GREEDY or temperature != 0):
        threshold = float("-inf")
        if HAS_FILTERS:
            threshold = tl.load(thresholds_ptr + row)
            kept = tl.load(kept_ptr + at, mask=real, other=0.0)
            masses = tl.where(threshold > float("-inf"), kept, masses)
        weights = masses * factors
        running = tl.cumsum(weights, axis=0)
        target = tl.load(uniforms_ptr + row).to(tl.float64) * tl.sum(weights, axis=0)
        chosen = _first_past(running, weights, target, tile, NUM_TILES)
        target -= tl.sum(tl.where(tile < chosen, weights, 0.0), axis=0)

        index = chosen * TILE + tl.arange(0, TILE)
        inside = index < vocab_size
        logits = tl.load(logits_ptr + row * logits_stride + index, mask=inside, other=0.0)
        logits = logits.to(tl.float32)
        if HAS_PENALTY:
            words_ptr = presence_ptr + row * presence_stride + index // 32
            words = tl.load(words_ptr, mask=inside, other=0)
            logits = penalise(logits, words, index % 32, tl.load(penalties_ptr + row))
        logits = usable(logits, inside)
        inner = tl.where(logits >= threshold, tl.exp((logits - maximum) * scale), 0.0)
        inner = inner.to(tl.float64)
        token = _first_past(tl.cumsum(inner, axis=0), inner, target, index, vocab_size)
        logit = tl.sum(tl.where(index == token, logits, 0.0), axis=0)
    logprob = (logit - maximum) * scale - tl.log(total.to(tl.float32))
    finite = tl.min(tl.load(finite_ptr + at, mask=real, other=1), axis=0)
    tl.store(tokens_ptr + row, token.to(tl.int64))
    tl.store(logprobs_ptr + row, tl.minimum(logprob, 0.0))
    tl.store(row_finite_ptr + row, finite != 0)


@triton.jit
def _first_past(running, weights, target, index, end):
    """The first index whose running sum passes the target and that weighs something.

    Rounding may put the target past every sum: then the last that weighs something.
    """
    weighted = weights > 0
    first = tl.min(tl.where((running > target) & weighted, index, end), axis=0)
    last = tl.max(tl.where(weighted, index, -1), axis=0)
    return tl.where(first < end, first, last)


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
    """See `gloss_kernels.reference.sample`; the logits keep their values.

    Rows of logits and of the presence map must be contiguous, their strides may be any.
    """
    (n, vocab_size), device = logits.shape, logits.device
    columns = (temperatures, uniforms, top_ps, min_ps, penalties)
    _check(logits, columns, top_ks, None if penalties is None else presence)
    assert penalties is None or presence is not None
    tokens = torch.empty(n, dtype=torch.int64, device=device)
    logprobs = torch.empty(n, dtype=torch.float32, device=device)
    finite = torch.empty(n, dtype=torch.bool, device=device)
    if n == 0:
        return tokens, logprobs, finite
    greedy = any_greedy or uniforms is None
    filters = uniforms is not None and not (top_ks is top_ps is min_ps is None)
    tile = min(_TILE, next_power_of_2(vocab_size, _WORD))
    num_tiles = triton.cdiv(vocab_size, tile)
    maxima, minima, masses, kept = logprobs.new_empty(4, n, num_tiles).unbind()
    firsts = torch.empty(n, num_tiles, dtype=torch.int32, device=device)
    tile_finite = torch.empty(n, num_tiles, dtype=torch.int8, device=device)
    thresholds = torch.empty(n, dtype=torch.float32, device=device)
    # What a launch does not use is masked out by its flags; any pointer will do.
    unused = temperatures
    penalties_or, presence_or = (unused if x is None else x for x in (penalties, presence))
    sizes = (vocab_size, num_tiles, logits.stride(0), presence_or.stride(0))
    flags = {"HAS_PENALTY": penalties is not None, "TILE": tile}
    _tile_kernel[(num_tiles, n)](
        logits, presence_or, temperatures, penalties_or,
        maxima, minima, masses, firsts, tile_finite, *sizes,
        HAS_GREEDY=greedy, HAS_FILTERS=filters, WORD=_WORD, num_warps=_TILE_WARPS, **flags,
    )  # fmt: skip
    if filters:
        _threshold_kernel[(n,)](
            logits, presence_or, temperatures, penalties_or,
            *(unused if column is None else column for column in (top_ks, top_ps, min_ps)),
            maxima, minima, masses, tile_finite, kept, thresholds, *sizes,
            HAS_TOP_K=top_ks is not None, HAS_TOP_P=top_ps is not None,
            HAS_MIN_P=min_ps is not None, NUM_TILES=next_power_of_2(num_tiles),
            ROWS=min(512, tile // _WIDTH), WIDTH=_WIDTH, COLUMNS=min(tile, 256), GROUP=8,
            num_warps=_THRESHOLD_WARPS, **flags,
        )  # fmt: skip
    _choose_kernel[(n,)](
        logits, presence_or, unused if uniforms is None else uniforms, temperatures, penalties_or,
        maxima, masses, firsts, tile_finite, kept, thresholds, tokens, logprobs, finite, *sizes,
        HAS_GREEDY=greedy, HAS_FILTERS=filters, HAS_DRAWS=uniforms is not None,
        NUM_TILES=next_power_of_2(num_tiles), num_warps=_CHOOSE_WARPS, **flags,
    )  # fmt: skip
    return tokens, logprobs, finite


def _check(
    logits: Tensor, columns: tuple[Tensor | None, ...], top_ks: Tensor | None, words: Tensor | None
) -> None:
    n, vocab_size = logits.shape
    assert logits.dtype in _DTYPES and (logits.stride(1) == 1 or vocab_size == 1)
    for column in (*columns, top_ks):
        if column is not None:
            assert column.shape == (n,) and column.device == logits.device
            assert column.stride(0) == 1 or n <= 1
            assert column.dtype == (torch.int64 if column is top_ks else torch.float32)
    if words is not None:
        assert words.shape == (n, -(-vocab_size // _WORD)) and words.dtype == torch.int32
        assert words.device == logits.device
        assert words.stride(1) == 1 or words.shape[1] == 1
