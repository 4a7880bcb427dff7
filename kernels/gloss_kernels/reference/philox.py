"""Philox4x32-10: counter-based random numbers, so that a draw depends on its coordinates alone.

    counter = (position, sample, item_key low, item_key high),   key = (seed low, seed high)
    u       = (top 23 bits of the first output word + 0.5) * 2^-23

A draw is thereby the same whatever else is in the batch. 23 bits and a half fill a float32
significand exactly, so u lies strictly between 0 and 1 and has the same bits everywhere.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_ROUNDS = 10


def _multiply(value: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32-bit words of value * multiplier, all in int64 (the product wraps)."""
    product = value * multiplier
    return (product >> 32) & _WORD, product & _WORD


def philox_words(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors holding 32-bit words, broadcastable against each other.
        key: two such tensors.

    Returns:
        Four int64 tensors holding 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def philox_uniform(
    seeds: Tensor, item_keys: Tensor, sample_indices: Tensor, positions: Tensor
) -> Tensor:
    """One uniform per (seed, item key, sample, position).

    Args:
        seeds, item_keys: int64, all 64 bits used.
        sample_indices, positions: int64 below 2^32. All four broadcast against each other.

    Returns:
        float32 of the broadcast shape, in (0, 1).
    """
    counter = (positions, sample_indices, item_keys & _WORD, (item_keys >> 32) & _WORD)
    first = philox_words(counter, (seeds & _WORD, (seeds >> 32) & _WORD))[0]
    return ((first >> 9).to(torch.float32) + 0.5) * 2.0**-23
