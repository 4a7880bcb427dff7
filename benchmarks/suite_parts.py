"""The suite's parts: what each measures, how long it takes, and the order they run in.

A part is a method of `Suite` that yields rows; weights are made once and shared. Those that the
time must suffice for come first; the optional ones, more peers, run where time is left. Running
them within the time is suite_report's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import suite_ceilings
import torch
from suite_correctness import Forced, check_logits, check_logprobs, forced
from suite_engine import cold_start_up, divergence, single, throughput
from suite_peers import generate, generate_batch
from suite_profile import profile_steps
from suite_report import Row
from suite_shape import (
    SEVEN_B,
    SMOKE,
    RandomPair,
    Shape,
    plain_targets,
    quantized_decoder,
    random_decoder,
    random_pair,
)
from suite_transformers import on_weights

from gloss_engine import EngineConfig
from gloss_engine.floor import Ceilings
from gloss_engine.models.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything.

    Attributes:
        shape: of the pair.
        small, sweet, large: numbers in flight; peers are compared at the first two.
        few, many: activations at `small`, and at the others.
        peer_seconds: measured time of a peer, after its warm-up.
    """

    shape: Shape
    small: int = 64
    sweet: int = 256
    large: int = 512
    few: int = 512
    many: int = 2048
    peer_seconds: float = 25.0


FULL = Sizes(shape=SEVEN_B)
SMALL = Sizes(shape=SMOKE, small=2, sweet=4, large=8, few=4, many=8, peer_seconds=1.0)


class Suite:
    """The parts, and what they share: weights made once, on the device.

    Args:
        sizes: how much of everything.
        config: of every engine but for slots and quantisation.
        fresh_cache: Triton's cache was empty when the process began.
    """

    def __init__(self, sizes: Sizes, config: EngineConfig, *, fresh_cache: bool) -> None:
        self.sizes, self.config, self.fresh_cache = sizes, config, fresh_cache
        self.device = config.resolve_device()
        self._ceilings: Ceilings | None = None
        self._decoders: dict[str, Decoder] = {}
        self._pairs: dict[str, RandomPair] = {}
        self._forced: Forced | None = None

    @property
    def ceilings(self) -> Ceilings:
        """Those of this run."""
        if self._ceilings is None:
            raise RuntimeError("no ceilings: their part failed or did not run")
        return self._ceilings

    def settings(self, quantization: str, batch: int) -> EngineConfig:
        """An engine's, with `batch` in flight."""
        return replace(self.config, quantization=quantization, num_slots=batch)

    def decoder(self, quantization: str) -> Decoder:
        """The weights, made when first asked for."""
        if quantization not in self._decoders:
            shape, config = self.sizes.shape, replace(self.config, quantization=quantization)
            if quantization == "none":
                decoder = random_decoder(shape, config)
            else:
                decoder = quantized_decoder(shape, config, self.decoder("none"))
            self._decoders[quantization] = decoder
        return self._decoders[quantization]

    def pair(self, quantization: str) -> RandomPair:
        """The pair on those weights, made when first asked for."""
        if quantization not in self._pairs:
            decoder = self.decoder(quantization)
            self._pairs[quantization] = random_pair(self.sizes.shape, decoder)
        return self._pairs[quantization]

    def measure_ceilings(self) -> Iterator[Row]:
        """Copy and product: everything's share of the floor stands on them."""
        self._ceilings = suite_ceilings.measure(self.device)
        yield from suite_ceilings.rows(self._ceilings, self.device)

    def measure_fp8_ceiling(self) -> Iterator[Row]:
        """The product in fp8, apart: it may fail where the others run."""
        rate = suite_ceilings.measure_fp8(self.device)
        self._ceilings = replace(self.ceilings, fp8_flop_per_second=rate)
        yield suite_ceilings.fp8_row(rate, self.device)

    def start_up(self) -> Iterator[Row]:
        """The first engine of the process, kernels compiled; it is not kept."""
        self.decoder("none")
        if self.device.type != "cuda":
            kernels = "no kernels on a CPU"
        elif self.fresh_cache:
            kernels = "kernels compiled, Triton's cache was empty"
        else:
            kernels = "kernels compiled that TRITON_CACHE_DIR, set by the caller, did not hold"
        config = self.settings("none", self.sizes.sweet)
        yield cold_start_up(lambda: self.pair("none"), config, kernels)

    def correctness(self) -> Iterator[Row]:
        """The plain engine against float32, which needs its weights three times for a moment."""
        pair = self.pair("none")
        weights, config = plain_targets(pair.decoder), self.sizes.shape.config
        model = on_weights(config, weights)
        upcast = {name: weight.float() for name, weight in weights.items()}
        reference = on_weights(config, upcast, attention="eager")
        self._forced = forced(pair, model, reference)
        yield from check_logits(pair, self.config, self._forced)
        yield from check_logprobs(pair, self.config, model, reference)

    def correctness_fp8(self) -> Iterator[Row]:
        """The same logits with fp8 linear layers: what they cost, reported."""
        if self._forced is None:
            raise RuntimeError("no reference logits: part correctness failed or did not run")
        config = replace(self.config, quantization="fp8")
        yield from check_logits(self.pair("fp8"), config, self._forced)
        self._forced = None

    def engine(self, quantization: str, batch: int) -> Iterator[Row]:
        """Throughput at `batch` in flight."""
        count = self.sizes.few if batch == self.sizes.small else self.sizes.many
        config = self.settings(quantization, batch)
        yield from throughput(self.pair(quantization), config, self.ceilings, count)

    def alone(self, quantization: str) -> Iterator[Row]:
        """Latencies of one explanation."""
        yield from single(self.pair(quantization), self.settings(quantization, 1), self.ceilings)

    def invariance(self) -> Iterator[Row]:
        """Explanations that change with the batch they are in."""
        sizes, config = self.sizes, self.settings("none", self.sizes.sweet)
        yield from divergence(self.pair("none"), config, sizes.small, sizes.sweet)

    def peer(self, batch: int, *, static: bool) -> Iterator[Row]:
        """transformers `generate`."""
        pair, sizes = self.pair("none"), self.sizes
        model = on_weights(sizes.shape.config, plain_targets(pair.decoder))
        yield from generate(model, pair, batch, sizes.many, sizes.peer_seconds, static=static)
        # What was compiled keeps graphs and their memory.
        torch.compiler.reset()

    def peer_batch(self, batch: int) -> Iterator[Row]:
        """transformers `generate_batch`."""
        pair, sizes = self.pair("none"), self.sizes
        model = on_weights(sizes.shape.config, plain_targets(pair.decoder))
        yield from generate_batch(model, pair, batch, sizes.many, sizes.peer_seconds)

    def profile(self, quantization: str, directory: Path) -> Iterator[Row]:
        """Decode steps at the sweet spot by kernel."""
        config = self.settings(quantization, self.sizes.sweet)
        yield from profile_steps(self.pair(quantization), config, directory)


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: what `--only` chooses by.
        seconds: expected on an H200; it is not begun with less left.
        rows: runs it.
    """

    name: str
    seconds: float
    rows: Callable[[], Iterable[Row]]


def required(suite: Suite) -> list[Part]:
    """What nine minutes must suffice for, in the order it runs."""
    small, sweet, large = suite.sizes.small, suite.sizes.sweet, suite.sizes.large
    return [
        Part("ceilings", 6, suite.measure_ceilings),
        Part("ceiling fp8", 4, suite.measure_fp8_ceiling),
        Part("cold start-up", 40, suite.start_up),
        Part("correctness", 20, suite.correctness),
        Part(f"engine bf16 {sweet}", 40, lambda: suite.engine("none", sweet)),
        Part("correctness fp8", 10, suite.correctness_fp8),
        Part(f"engine fp8 {sweet}", 35, lambda: suite.engine("fp8", sweet)),
        Part(f"generate static {sweet}", 110, lambda: suite.peer(sweet, static=True)),
        Part("single bf16", 12, lambda: suite.alone("none")),
        Part("single fp8", 12, lambda: suite.alone("fp8")),
        Part("divergence", 30, suite.invariance),
        Part(f"generate_batch {sweet}", 50, lambda: suite.peer_batch(sweet)),
        Part(f"engine bf16 {large}", 40, lambda: suite.engine("none", large)),
        Part(f"engine fp8 {large}", 40, lambda: suite.engine("fp8", large)),
        Part(f"engine bf16 {small}", 25, lambda: suite.engine("none", small)),
        Part(f"engine fp8 {small}", 25, lambda: suite.engine("fp8", small)),
    ]


def profiles(suite: Suite, directory: Path) -> list[Part]:
    """Decode steps by kernel."""
    return [
        Part("profile bf16", 20, lambda: suite.profile("none", directory)),
        Part("profile fp8", 20, lambda: suite.profile("fp8", directory)),
    ]


def optional(suite: Suite) -> list[Part]:
    """More peers, for time that is left."""
    small, sweet = suite.sizes.small, suite.sizes.sweet
    return [
        Part(f"generate dynamic {sweet}", 40, lambda: suite.peer(sweet, static=False)),
        Part(f"generate static {small}", 100, lambda: suite.peer(small, static=True)),
        Part(f"generate_batch {small}", 40, lambda: suite.peer_batch(small)),
    ]


def parts(suite: Suite, profile_dir: Path | None) -> list[Part]:
    """Every part, in the order they run; profiles where there is a folder for them."""
    profiled = [] if profile_dir is None else profiles(suite, profile_dir)
    return [*required(suite), *profiled, *optional(suite)]


def chosen(every: list[Part], only: list[str] | None) -> list[Part]:
    """The parts whose names contain one of `only`, and the ceilings; all of them for None.

    Raises:
        ValueError: one of `only` is in no name.
    """
    if only is None:
        return every
    names = ", ".join(part.name for part in every)
    for text in only:
        if not any(text in part.name for part in every):
            raise ValueError(f"--only: got {text!r}, expected what one of these contains: {names}")
    return [part for part in every if any(text in part.name for text in (*only, "ceiling"))]
