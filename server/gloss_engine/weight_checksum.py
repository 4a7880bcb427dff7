"""A checksum of a pair's weights that says whether two copies agree, to the bit.

    s = sum over chunks c of m_c * sum_i k_i b_ci  (mod 2^64)     of one weight
    S = sum over weights w of h_w * (s_w + 1)      (mod 2^64)

b are the weight's bytes in the engine's type, eight a word, in chunks of 2^22 words; k_i and m_c
are odd and differ by place, h_w is odd and hangs on the weight's name and shape. So one word that
differs always shows, words and weights that changed places nearly always, and the order in which
weights come does not matter. It is taken where they are: the host waits once, for eight bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from gloss_engine.weight_names import canonical_name, is_vision

_CHUNK_WORDS = 1 << 22
_WORD_BYTES = 8
_SPREAD = -7046029254386353131
"""2^64 over the golden ratio, as a signed number."""


def weights_checksum(
    av: Iterable[tuple[str, Tensor]],
    ar: Iterable[tuple[str, Tensor]] | None = None,
    *,
    dtype: torch.dtype,
) -> str:
    """The checksum of a pair's weights as an engine holds them.

    Args:
        av, ar: weights under their names in a checkpoint; vision weights are passed over. None: of
            the AV alone.
        dtype: the engine's; weights are cast to it, the AR's value head to float32.

    Returns:
        16 hex digits.
    """
    whole = _Sum()
    for side, weights in (("av", av), ("ar", ar or ())):
        for name, tensor in weights:
            if not is_vision(name):
                held = held_dtype(name, dtype)
                whole.add(f"{side}.{canonical_name(name)}", tensor.detach().to(held))
    return whole.digits()


def held_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The type in which an engine of type `dtype` holds a weight."""
    return torch.float32 if name.startswith("value_head.") else dtype


class _Sum:
    """The sum so far, a part on each device that weights are on."""

    def __init__(self) -> None:
        self._totals: dict[torch.device, Tensor] = {}
        self._factors: dict[torch.device, Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a weight in."""
        total = torch.ones((), dtype=torch.int64, device=tensor.device)
        for index, chunk in enumerate(_words(tensor).split(_CHUNK_WORDS)):
            total += (chunk * self._places(chunk)).sum() * _odd(f"chunk {index}")
        total *= _odd(f"{name} {list(tensor.shape)}")
        before = self._totals.get(tensor.device)
        self._totals[tensor.device] = total if before is None else total + before

    def _places(self, chunk: Tensor) -> Tensor:
        """What each place of a chunk multiplies its word by."""
        device, count = chunk.device, chunk.shape[0]
        factors = self._factors.get(device)
        if factors is None or factors.shape[0] < count:
            spread = torch.arange(count, device=device) * _SPREAD
            factors = self._factors[device] = (spread ^ (spread >> 29)) | 1
        return factors[:count]

    def digits(self) -> str:
        """The sum, in hex."""
        total = sum(int(part) for part in self._totals.values())
        return f"{total % 2**64:016x}"


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bytes as int64, zeros behind the last."""
    flat = tensor.contiguous().flatten()
    each = _WORD_BYTES // flat.element_size()
    spare = -flat.shape[0] % each
    if spare or flat.storage_offset() % each:
        flat = torch.cat((flat, flat.new_zeros(spare)))
    return flat.view(torch.int64)


def _odd(text: str) -> int:
    """An odd number of 64 bits, signed, that hangs on a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) | 1
