"""Where top-k, top-p and min-p cut a row: the least logit they keep, found without sorting.

    top-k:  kept(v)  iff  #{l > l_v} < k
    top-p:  kept(v)  iff  sum{w : l > l_v} < top_p * sum{w : kept by top-k},  w = exp((l - max) / T)
    min-p:  kept(v)  iff  w_v >= min_p

The first two say: the weight above l_v is below a bound. That weight falls as l_v rises, so a
threshold separates the kept from the dropped, and ties fall together. A pass over the row, which is
in L2, weighs what lies above four pivots and leaves about a quarter of the range; the search ends
when one value is left. It starts at what the tiles of `sample` tell: the k-th largest of their
maxima bounds the k-th largest token, and all tokens below (1 - top_p) * mass / vocab_size weigh too
little together. Counted on 152,064 normal logits: 3 to 6 passes for a top-k of 20 or 50 and for a
top-p of 0.95 where they are bfloat16, 3 to 10 where they are float32; passes leave out tiles whose
maximum is dropped. No atomics: the same bits every time. One more pass writes the mass each tile
keeps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from gloss_kernels.launch import INTERPRETED

LOWEST = tl.constexpr(-3.4028234663852886e38)
"""Stands for logits that are not finite, so that a flagged row still computes with numbers."""
_VALUE_ROUNDS = tl.constexpr(8)
"""Rounds that cut the range of values; later ones cut the range of float32 bit patterns, which ends
within 16 more whatever the values are."""


@triton.jit
def penalise(logits, words, bit, penalty):
    """Repetition penalty on float32 logits whose bit of the presence map is set."""
    if INTERPRETED:
        quotient = logits / penalty
    else:
        # Triton's division is off by up to 2 units in the last place; one Newton step ends that,
        # so quotients that are exact tie as they do in the reference.
        inverse = 1.0 / penalty
        quotient = logits * inverse
        quotient = tl.fma(tl.fma(-quotient, penalty, logits), inverse, quotient)
    scaled = tl.where(logits > 0, quotient, logits * penalty)
    return tl.where(((words >> bit) & 1) != 0, scaled, logits)


@triton.jit
def usable(logits, inside):
    """Logits without NaN and infinities; -inf outside the vocabulary, which weighs nothing."""
    finite = tl.abs(logits) < float("inf")
    return tl.where(inside, tl.where(finite, logits, LOWEST), float("-inf"))


@triton.jit
def inverse_temperature(temperature):
    """1 / T, where 0 counts as 1; finite, so that 0 times it is 0."""
    return tl.minimum(1.0 / tl.where(temperature == 0, 1.0, temperature), 1e38)


@triton.jit
def _key(value):
    """The bits of a float32 as an integer of the same order."""
    bits = value.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _pivot(low, high, quarter: tl.constexpr, rounds):
    """A point `quarter` quarters of the way from low to high, in values or in bit patterns."""
    key = (_key(low) * (4 - quarter) + _key(high) * quarter) >> 2
    bits = (key ^ ((key >> 63) & 0x7FFFFFFF)).to(tl.int32)
    by_value = low * (1 - quarter / 4) + high * (quarter / 4)
    return tl.where(rounds < _VALUE_ROUNDS, by_value, bits.to(tl.float32, bitcast=True))


@triton.jit
def _above(sums, least, logits, weights, pivot):
    """Add the weight above a pivot, a row of the chunk at a time, and note the least above it."""
    above = logits > pivot
    sums += tl.sum(tl.where(above, weights, 0.0), axis=1)
    return sums, tl.minimum(least, tl.min(tl.where(above, logits, float("inf")), axis=1))


@triton.jit
def _read(
    logits_ptr, presence_ptr, penalty, start, vocab_size,
    HAS_PENALTY: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Logits [ROWS, WIDTH] from token `start` on; a thread reads whole rows."""
    first = start + tl.arange(0, ROWS)[:, None] * WIDTH
    index = first + tl.arange(0, WIDTH)[None, :]
    inside = index < vocab_size
    logits = tl.load(logits_ptr + index, mask=inside, other=0.0).to(tl.float32)
    if HAS_PENALTY:
        # WIDTH divides 32: a row of the chunk lies in one word.
        words = tl.load(presence_ptr + first // 32, mask=first < vocab_size, other=0)
        logits = penalise(logits, words, index % 32, penalty)
    return usable(logits, inside)


@triton.jit
def _mass_from(
    logits_ptr, presence_ptr, maxima_ptr, penalty, vocab_size, threshold, maximum, scale,
    HAS_PENALTY: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """sum{w : l >= threshold}."""
    sums = tl.zeros((ROWS,), tl.float32)
    for start in range(0, vocab_size, ROWS * WIDTH):
        if tl.load(maxima_ptr + start // TILE) >= threshold:
            logits = _read(
                logits_ptr, presence_ptr, penalty, start, vocab_size, HAS_PENALTY, ROWS, WIDTH
            )
            weights = tl.exp((logits - maximum) * scale)
            sums += tl.sum(tl.where(logits >= threshold, weights, 0.0), axis=1)
    return tl.sum(sums, axis=0)


@triton.jit
def _search(
    logits_ptr, presence_ptr, maxima_ptr, penalty, vocab_size, low, maximum, scale, bound,
    WEIGHTED: tl.constexpr, HAS_PENALTY: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """The least logit whose weight above it is below `bound`; tokens below `low` are dropped.

    Invariant: what is below `low` is dropped, what is at or above `high` is kept.
    """
    high, rounds = maximum, 0
    while low < high:
        pivot1 = _pivot(low, high, 1, rounds)
        pivot2 = _pivot(low, high, 2, rounds)
        pivot3 = _pivot(low, high, 3, rounds)
        sums0 = tl.zeros((ROWS,), tl.float32)
        sums1, sums2, sums3 = sums0, sums0, sums0
        least0 = tl.zeros((ROWS,), tl.float32) + maximum
        least1, least2, least3 = least0, least0, least0
        for start in range(0, vocab_size, ROWS * WIDTH):
            # Nothing in a tile is above its maximum: most tiles are out after a pass or two.
            if tl.load(maxima_ptr + start // TILE) > low:
                logits = _read(
                    logits_ptr, presence_ptr, penalty, start, vocab_size, HAS_PENALTY, ROWS, WIDTH
                )
                weights = tl.full((ROWS, WIDTH), 1.0, tl.float32)
                if WEIGHTED:
                    weights = tl.exp((logits - maximum) * scale)
                sums0, least0 = _above(sums0, least0, logits, weights, low)
                sums1, least1 = _above(sums1, least1, logits, weights, pivot1)
                sums2, least2 = _above(sums2, least2, logits, weights, pivot2)
                sums3, least3 = _above(sums3, least3, logits, weights, pivot3)
        # The highest pivot with too much above it and the next: what lies between is open.
        if tl.sum(sums0, axis=0) < bound:
            high = low
        elif tl.sum(sums1, axis=0) < bound:
            low, high = tl.min(least0, axis=0), pivot1
        elif tl.sum(sums2, axis=0) < bound:
            low, high = tl.min(least1, axis=0), pivot2
        elif tl.sum(sums3, axis=0) < bound:
            low, high = tl.min(least2, axis=0), pivot3
        else:
            low = tl.min(least3, axis=0)
        rounds += 1
    return low


@triton.jit
def _keep_masses(
    logits_ptr, presence_ptr, maxima_ptr, kept_ptr, penalty, vocab_size, num_tiles, threshold,
    scale, HAS_PENALTY: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Write sum{exp((l - the tile's maximum) / T) : l >= threshold} of every tile."""
    for group in range(0, num_tiles, GROUP):
        tile = group + tl.arange(0, GROUP)
        maxima = tl.load(maxima_ptr + tile, mask=tile < num_tiles, other=LOWEST)
        sums = tl.zeros((GROUP, COLUMNS), tl.float32)
        end = tl.where(tl.max(maxima, axis=0) >= threshold, TILE, 0)
        for start in range(0, end, COLUMNS):
            index = tile[:, None] * TILE + start + tl.arange(0, COLUMNS)[None, :]
            inside = index < vocab_size
            logits = tl.load(logits_ptr + index, mask=inside, other=0.0).to(tl.float32)
            if HAS_PENALTY:
                words = tl.load(presence_ptr + index // 32, mask=inside, other=0)
                logits = penalise(logits, words, index % 32, penalty)
            logits = usable(logits, inside)
            weights = tl.exp((logits - maxima[:, None]) * scale)
            sums += tl.where(logits >= threshold, weights, 0.0)
        tl.store(kept_ptr + tile, tl.sum(sums, axis=1), mask=tile < num_tiles)


@triton.jit
def _threshold_kernel(
    logits_ptr, presence_ptr, temperatures_ptr, penalties_ptr, top_ks_ptr, top_ps_ptr, min_ps_ptr,
    maxima_ptr, minima_ptr, masses_ptr, finite_ptr, kept_ptr, thresholds_ptr,
    vocab_size, num_tiles, logits_stride, presence_stride,
    HAS_TOP_K: tl.constexpr, HAS_TOP_P: tl.constexpr, HAS_MIN_P: tl.constexpr,
    HAS_PENALTY: tl.constexpr, TILE: tl.constexpr, NUM_TILES: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_stride
    presence_ptr += row * presence_stride
    maxima_ptr += row * num_tiles
    temperature = tl.load(temperatures_ptr + row)
    tile = tl.arange(0, NUM_TILES)
    real = tile < num_tiles
    top_k, top_p, min_p = vocab_size, 1.0, 0.0
    if HAS_TOP_K:
        top_k = tl.load(top_ks_ptr + row).to(tl.int32)
        top_k = tl.where((top_k > 0) & (top_k < vocab_size), top_k, vocab_size)
    if HAS_TOP_P:
        top_p = tl.load(top_ps_ptr + row)
    if HAS_MIN_P:
        min_p = tl.load(min_ps_ptr + row)
    finite = tl.min(tl.load(finite_ptr + row * num_tiles + tile, mask=real, other=1), axis=0)
    filtered = (top_k < vocab_size) | (top_p < 1.0) | (min_p > 0.0)
    threshold = float("-inf")
    if filtered & (temperature != 0) & (finite != 0):
        penalty = 1.0
        if HAS_PENALTY:
            penalty = tl.load(penalties_ptr + row)
        scale = inverse_temperature(temperature)
        maxima = tl.load(maxima_ptr + tile, mask=real, other=float("-inf"))
        maximum = tl.max(maxima, axis=0)
        minima_row = minima_ptr + row * num_tiles + tile
        threshold = tl.min(tl.load(minima_row, mask=real, other=float("inf")), axis=0)
        if HAS_TOP_K and top_k < vocab_size:
            if top_k <= num_tiles:
                others = tl.arange(0, NUM_TILES)[:, None]
                other = tl.load(maxima_ptr + others, mask=others < num_tiles, other=float("-inf"))
                rank = tl.sum((other > maxima[None, :]).to(tl.int32), axis=0)
                among = real & (rank < top_k)
                threshold = tl.min(tl.where(among, maxima, float("inf")), axis=0)
            threshold = _search(
                logits_ptr, presence_ptr, maxima_ptr, penalty, vocab_size, threshold, maximum,
                scale, top_k.to(tl.float32), False, HAS_PENALTY, TILE, ROWS, WIDTH,
            )  # fmt: skip
        if HAS_TOP_P and top_p < 1.0:
            if top_k < vocab_size:
                mass = _mass_from(
                    logits_ptr, presence_ptr, maxima_ptr, penalty, vocab_size, threshold,
                    maximum, scale, HAS_PENALTY, TILE, ROWS, WIDTH,
                )  # fmt: skip
            else:
                masses = tl.load(masses_ptr + row * num_tiles + tile, mask=real, other=0.0)
                mass = tl.sum(masses * tl.exp((maxima - maximum) * scale), axis=0)
            # A hundredth less, for rounding.
            least = tl.log(0.99 * (1.0 - top_p) * mass / vocab_size) / scale
            threshold = _search(
                logits_ptr, presence_ptr, maxima_ptr, penalty, vocab_size,
                tl.minimum(tl.maximum(threshold, maximum + least), maximum), maximum,
                scale, top_p * mass, True, HAS_PENALTY, TILE, ROWS, WIDTH,
            )  # fmt: skip
        if HAS_MIN_P and min_p > 0.0:
            least = maximum + tl.minimum(tl.log(min_p), 0.0) / scale
            threshold = tl.maximum(threshold, least)
        _keep_masses(
            logits_ptr, presence_ptr, maxima_ptr, kept_ptr + row * num_tiles, penalty, vocab_size,
            num_tiles, threshold, scale, HAS_PENALTY, TILE, COLUMNS, GROUP,
        )  # fmt: skip
    tl.store(thresholds_ptr + row, threshold)
