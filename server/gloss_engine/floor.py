"""What limits a decode step and an explanation: bytes and operations against a device's ceilings.

Work falls into classes: the blocks' linear layers, the head, attention. Each takes at least

    seconds = max(bytes / bytes_per_second, flop / flop_per_second)

with the weights of a class read once a pass, 2 FLOP a weight and row, and 4 FLOP a key, query head
and head_dim in attention (query times key, weights times value). Keys and values of the shared
prefix are read once for the whole batch, a sequence's own ones once; logits are written once and
read once. A step is the sum over its classes. An explanation is the prefill of its suffix, which
draws the first token, and `new_tokens - 1` steps; scored, its tokens also run through the AR.

Left out, together below 0.2% at the released shapes: norms' weights, biases, embedding rows, the
AR's value head and its template's prefix; what passes between the layers is taken to stay in the
cache. Prefill and steps count one after the other: an engine that runs a few prefill rows inside a
step that waits for weights gets them for nothing, so below the batch where products begin to limit
(184 rows on an H200) up to 15% more than this floor says is possible. Counted, although an engine
can leave it out as this one does: what the last block computes of prefilled rows beside keys and
values, and of all but the last token of an AR's text (1/28 of a prefill and 1/21 of a scoring at
Qwen2.5-7B's shape).

No torch and nothing measured here: callers give ceilings of the run they judge, or `H200`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gloss_engine.models.spec import LayerSpec, ModelSpec

QUANTIZATIONS = ("none", "fp8")
AR_TAIL_TOKENS = 10
"""Tokens of an AR prompt beside the shared prefix and the explanation: assumed."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What a device reaches at best.

    Attributes:
        bytes_per_second: of its memory, read and written bytes together, in a large copy.
        flop_per_second: of a large matrix product in the model's own type.
        fp8_flop_per_second: of one in fp8; used with quantization fp8 only.
    """

    bytes_per_second: float
    flop_per_second: float
    fp8_flop_per_second: float


H200 = Ceilings(bytes_per_second=4.3e12, flop_per_second=790e12, fp8_flop_per_second=1350e12)
"""One H200: memory and 16-bit products measured, fp8 products assumed and still to be measured."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One explanation.

    Attributes:
        prompt_len: tokens of the AV's prompt.
        prefix_len: of them before the injected row, computed once for all.
        new_tokens: tokens generated.
        ar_tokens: tokens the AR runs to score it; None: the new ones and AR_TAIL_TOKENS.

    Raises:
        ValueError: no token after the prefix, or none generated or scored.
    """

    prompt_len: int = 125
    prefix_len: int = 100
    new_tokens: int = 120
    ar_tokens: int | None = None

    def __post_init__(self) -> None:
        scored = self.num_ar_tokens
        if not 0 <= self.prefix_len < self.prompt_len or min(self.new_tokens, scored) < 1:
            raise ValueError(
                f"workload: got a prompt of {self.prompt_len} tokens with {self.prefix_len} "
                f"shared, {self.new_tokens} new and {scored} scored, expected a prompt longer "
                "than its shared part, and at least one new and one scored token"
            )

    @property
    def suffix_len(self) -> int:
        """Prompt tokens that every explanation computes, the injected row included."""
        return self.prompt_len - self.prefix_len

    @property
    def num_ar_tokens(self) -> int:
        """Tokens the AR runs for one explanation."""
        return self.new_tokens + AR_TAIL_TOKENS if self.ar_tokens is None else self.ar_tokens


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least time an AV can take, and with `ar` given an AV whose explanations are all scored.

        Floor(spec=spec, quantization="fp8").explanations_per_second(256)

    Attributes:
        spec: the AV.
        ar: the AR, of K + 1 blocks; its head is never run. None: nothing is scored.
        ceilings: the device's.
        workload: prompt and lengths.
        dtype_bytes: bytes of an element: 2, or 4 for float32.
        quantization: "fp8": linear layers of AV and AR hold one byte a weight and multiply in fp8,
            the head stays in the model's type; or "none".

    Raises:
        ValueError: another quantization.
    """

    spec: ModelSpec
    ar: ModelSpec | None = None
    ceilings: Ceilings = H200
    workload: Workload = Workload()
    dtype_bytes: int = 2
    quantization: str = "none"

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization: got {self.quantization!r}, "
                f"expected one of {', '.join(QUANTIZATIONS)}"
            )

    def step_seconds(self, batch: int) -> float:
        """One decode step of `batch` sequences, each half way through its new tokens."""
        work = self.workload
        private = work.suffix_len + work.new_tokens / 2
        return (
            self._linears(self.spec, batch)
            + self._attention(
                self.spec,
                rows=batch,
                prefix=work.prefix_len,
                private=private,
                private_bytes=batch * private,
            )
            + self._head(batch)
        )

    def prefill_seconds(self, batch: int) -> float:
        """The suffixes of `batch` prompts behind their shared prefix, and a first token of each."""
        work = self.workload
        rows = batch * work.suffix_len
        return (
            self._linears(self.spec, rows)
            + self._attention(
                self.spec,
                rows=rows,
                prefix=work.prefix_len,
                private=(work.suffix_len + 1) / 2,
                private_bytes=rows,
            )
            + self._head(batch)
        )

    def scoring_seconds(self, batch: int) -> float:
        """The AR over `batch` explanations, packed without padding; 0 without an AR."""
        if self.ar is None:
            return 0.0
        tokens = self.workload.num_ar_tokens
        rows = batch * tokens
        return self._linears(self.ar, rows) + self._attention(
            self.ar, rows=rows, prefix=0, private=(tokens + 1) / 2, private_bytes=rows
        )

    def batch_seconds(self, batch: int) -> float:
        """`batch` explanations from the first suffix token to the last score."""
        steps = (self.workload.new_tokens - 1) * self.step_seconds(batch)
        return self.prefill_seconds(batch) + steps + self.scoring_seconds(batch)

    def explanations_per_second(self, batch: int) -> float:
        """Explanations a second with `batch` of them always in flight."""
        return batch / self.batch_seconds(batch)

    def single_explanation_seconds(self) -> float:
        """Latency of one explanation alone."""
        return self.batch_seconds(1)

    def _linears(self, spec: ModelSpec, rows: int) -> float:
        weights = spec.num_layers * weights_of(linear_shapes(spec))
        if self.quantization == "fp8":
            return self._seconds(weights, 2 * rows * weights, self.ceilings.fp8_flop_per_second)
        return self._seconds(weights * self.dtype_bytes, 2 * rows * weights)

    def _head(self, rows: int) -> float:
        """The head's product; then the logits, written and read once more."""
        weights = self.spec.vocab_size * self.spec.d_model
        logits = 2 * rows * self.spec.vocab_size * self.dtype_bytes
        product = self._seconds(weights * self.dtype_bytes, 2 * rows * weights)
        return product + logits / self.ceilings.bytes_per_second

    def _attention(
        self, spec: ModelSpec, *, rows: int, prefix: int, private: float, private_bytes: float
    ) -> float:
        """All blocks' attention.

        Args:
            rows: queries.
            prefix, private: keys each of them sees of the shared prefix and of its own sequence.
            private_bytes: keys of all sequences that are read or written, apart from the prefix.
        """
        moved = flop = 0.0
        for layer in spec.layers:
            in_prefix, own = visible_keys(layer, prefix, private)
            moved += in_prefix + private_bytes * own / private
            flop += rows * (in_prefix + own)
        token_bytes = 2 * spec.num_kv_heads * spec.head_dim * self.dtype_bytes
        return self._seconds(moved * token_bytes, 4 * spec.num_heads * spec.head_dim * flop)

    def _seconds(self, moved: float, flop: float, flop_per_second: float | None = None) -> float:
        rate = flop_per_second or self.ceilings.flop_per_second
        return max(moved / self.ceilings.bytes_per_second, flop / rate)


def linear_shapes(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """(in_features, out_features) of a block's products: qkv, output, gate and up, down."""
    q_size = spec.num_heads * spec.head_dim
    qkv_size = q_size + 2 * spec.num_kv_heads * spec.head_dim
    return (
        (spec.d_model, qkv_size),
        (q_size, spec.d_model),
        (spec.d_model, 2 * spec.intermediate_size),
        (spec.intermediate_size, spec.d_model),
    )


def visible_keys(layer: LayerSpec, prefix: float, private: float) -> tuple[float, float]:
    """How many of `prefix` shared and `private` own keys the last query of a sequence sees."""
    if layer.window is None:
        return prefix, private
    own = min(private, layer.window)
    return min(prefix, layer.window - own), own


def weights_of(shapes: Iterable[tuple[int, int]]) -> int:
    """Weights of products of these shapes."""
    return sum(n_in * n_out for n_in, n_out in shapes)
