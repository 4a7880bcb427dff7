"""The engine on one GPU, beside its floor and its peers: one command of at most nine minutes.

Ceilings of the machine; logits against float32; explanations per second of the engine at the 7B
shape (batch 1, 64, 256, 512; bf16 and fp8; without and with AR scoring), latencies, start-up and
memory; how often batches change an explanation; the same work by transformers, on the same weights.
Writes JSON after every figure and prints a table last. Parts run in the order of what is wanted
first; what the time does not suffice for is a row that says so.

    python benchmarks/gpu_suite.py [--minutes 9] [--output FILE] [--profile-dir DIR] [--only TEXT]

From a source tree: PYTHONPATH=kernels:server python benchmarks/gpu_suite.py
Without a GPU: --smoke runs every part small on the CPU, in bf16; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from logging import ERROR, getLogger
from pathlib import Path

import suite_ceilings
import torch
from common import RESULTS
from suite_correctness import Forced, check_logits, check_logprobs, forced
from suite_engine import divergence, single, throughput
from suite_peers import generate, generate_batch
from suite_profile import profile_steps
from suite_report import Report, Row
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
from transformers.utils import logging

from gloss_engine import EngineConfig
from gloss_engine.floor import Ceilings


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
    """The parts, and what they share: weights made once, on the device."""

    def __init__(self, sizes: Sizes, config: EngineConfig) -> None:
        self.sizes, self.config = sizes, config
        self.device = config.resolve_device()
        self._ceilings: Ceilings | None = None
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

    def pair(self, quantization: str) -> RandomPair:
        """The pair, made when first asked for."""
        if quantization not in self._pairs:
            shape, config = self.sizes.shape, replace(self.config, quantization=quantization)
            if quantization == "none":
                decoder = random_decoder(shape, config)
            else:
                decoder = quantized_decoder(shape, config, self.pair("none").decoder)
            self._pairs[quantization] = random_pair(shape, decoder)
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


Part = tuple[str, float, Callable[[], Iterable[Row]]]


def parts(suite: Suite, profile_dir: Path | None) -> list[Part]:
    """Name, seconds expected on an H200 and function of every part, in the order they run."""
    small, sweet, large = suite.sizes.small, suite.sizes.sweet, suite.sizes.large
    chosen: list[Part] = [
        ("ceilings", 0, suite.measure_ceilings),
        ("ceiling fp8", 0, suite.measure_fp8_ceiling),
        ("correctness", 20, suite.correctness),
        (f"engine bf16 {sweet}", 60, lambda: suite.engine("none", sweet)),
        ("correctness fp8", 10, suite.correctness_fp8),
        (f"engine fp8 {sweet}", 60, lambda: suite.engine("fp8", sweet)),
        (f"generate static {sweet}", 120, lambda: suite.peer(sweet, static=True)),
        ("single bf16", 20, lambda: suite.alone("none")),
        ("single fp8", 20, lambda: suite.alone("fp8")),
        (f"engine bf16 {large}", 45, lambda: suite.engine("none", large)),
        (f"engine fp8 {large}", 45, lambda: suite.engine("fp8", large)),
        (f"generate_batch {sweet}", 50, lambda: suite.peer_batch(sweet)),
        (f"engine bf16 {small}", 30, lambda: suite.engine("none", small)),
        (f"engine fp8 {small}", 30, lambda: suite.engine("fp8", small)),
        ("divergence", 40, suite.invariance),
        (f"generate static {small}", 100, lambda: suite.peer(small, static=True)),
        (f"generate_batch {small}", 40, lambda: suite.peer_batch(small)),
        (f"generate dynamic {sweet}", 40, lambda: suite.peer(sweet, static=False)),
    ]
    if profile_dir is not None:
        chosen[7:7] = [
            ("profile bf16", 20, lambda: suite.profile("none", profile_dir)),
            ("profile fp8", 20, lambda: suite.profile("fp8", profile_dir)),
        ]
    return chosen


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="every part, small, on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it; default 9")
    parser.add_argument(
        "--output", type=Path, help="JSON to write; default results/gpu_suite.json, smoke: none"
    )
    parser.add_argument("--profile-dir", type=Path, help="profile decode steps, tables go here")
    parser.add_argument(
        "--only", nargs="+", help="run the parts whose names contain one of these, and ceilings"
    )
    parser.add_argument("--commit", help="name of the commit, where git cannot say")
    return parser.parse_args()


def main() -> None:
    """Run what the time suffices for."""
    options = arguments()
    on_gpu = torch.cuda.is_available()
    if not options.smoke and not on_gpu:
        raise SystemExit("error: no GPU here; --smoke runs every part small on the CPU")
    logging.set_verbosity_error()
    getLogger("ContinuousBatchingLogger").setLevel(ERROR)
    output = options.output or (None if options.smoke else RESULTS / "gpu_suite.json")
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    report = Report(command, options.minutes, output, options.commit)
    report.give_up_in_time()
    if options.smoke:
        # All that goes with graphs, the lag included, but not their capture.
        config = EngineConfig(device="cpu", dtype="bfloat16", graphs="on", lag=1)
    else:
        config = EngineConfig(device="cuda", dtype="bfloat16")
    suite = Suite(SMALL if options.smoke else FULL, config)
    for name, seconds, part in parts(suite, options.profile_dir):
        wanted = options.only is None or any(text in name for text in (*options.only, "ceiling"))
        if wanted:
            report.run(name, 0 if options.smoke else seconds, part)
    report.print()
    if report.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
