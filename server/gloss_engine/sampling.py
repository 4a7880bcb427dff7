"""How tokens are drawn, as the caller states it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gloss_engine.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request; the defaults are the service's.

    Filters apply in the order repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of likeliest tokens of at least this mass; 1 keeps all.
        min_p: keep tokens of at least this share of the likeliest one's probability.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens the
            sequence has generated; the prompt does not count.
        max_new_tokens: most tokens generated.
        seed: 64-bit seed of the draws; None draws one, which the results carry.
        stop: strings that end a sequence, besides the closing tag.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 200
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("top_k", "max_new_tokens"):
            object.__setattr__(self, name, _as("a whole number", operator.index, self, name))
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            object.__setattr__(self, name, _as("a number", float, self, name))
        if self.seed is not None:
            object.__setattr__(self, "seed", _as("a whole number", operator.index, self, "seed"))
        stops = not isinstance(self.stop, str) and all(isinstance(text, str) for text in self.stop)
        _check("stop", self.stop, stops, "a tuple of strings")
        # float32 on the device: a temperature or penalty that rounds to 0 there would mean another
        # thing, and logits over it would overflow.
        heat = self.temperature
        _check("temperature", heat, heat == 0 or 1e-6 <= heat <= 100, "0, or 1e-6 to 100")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p < 1, "0 (off) or more, below 1")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 1e-6 <= penalty <= 1e6, "1e-6 to 1e6")
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "1 or more")
        seed = self.seed
        _check("seed", seed, seed is None or 0 <= seed < 2**64, "0 to 2^64 - 1")
        _check("stop", self.stop, all(self.stop), "strings that are not empty")


def _check(field: str, got: object, valid: bool, expected: str) -> None:
    if not valid:
        raise RequestError("INVALID_SAMPLING", field, f"{field}: got {got!r}, expected {expected}")


def _as(kind: str, convert: Callable[[Any], object], holder: object, field: str) -> object:
    """A field as a plain Python number: numpy's scalars are welcome, strings and halves are not."""
    value = getattr(holder, field)
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError):
        _check(field, value, False, kind)
        raise
