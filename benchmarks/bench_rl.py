"""Seconds of a step of RL with LoRA at a 7B shape, by phase, and the memory it takes.

The step is `train_rl`'s own: 512 responses of 122 tokens (64 activations, 8 samples each) from the
engine in this process, the AR's forward and backward pass over them, the AV's with the exact KL to
its reference, both optimizers, and the merged weights back to the engine with their checksum. The
first step compiles and is not counted. `rl_case.py` makes the pair, of random weights and with
responses of one length: so the work is known, and nothing is said of learning.

    python benchmarks/bench_rl.py [--steps N] [--micro-batch N] [--checkpointing] [--smoke]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import machine, table, write_result
from rl_case import build
from suite_shape import SEED, SEVEN_B, SMOKE, Shape

from gloss_training.learning.progress import Sample
from gloss_training.models.sharding import Ranks
from gloss_training.rl.settings import KlSettings, RlSettings
from gloss_training.rl.trainer import train_rl

NEW_TOKENS = 122
PHASES = ("rollout", "ar", "av", "update", "load")
COLUMNS = ("phase", "seconds", "share", "tflops")
GIB = 2**30


class Recorder:
    """Takes down what each step took, and says so."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.figures: list[dict[str, float]] = []

    def step(
        self, index: int, figures: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        """A step is done."""
        self.steps.append(dict(clock or {}))
        self.figures.append(dict(figures))
        told = {name: round(value, 2) for name, value in (clock or {}).items()}
        print(f"step {index}: {told}, {memory()}", flush=True)

    def samples(self, index: int, samples: Sequence[Sample]) -> None:
        """Nobody reads random words."""


def memory() -> dict[str, float]:
    """GiB of the device: most that tensors were in, and most that the allocator held."""
    if not torch.cuda.is_available():
        return {}
    return {
        "allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def teraflop(shape: Shape, num_responses: int, kl: str) -> dict[str, float]:
    """Products of a step, by phase, in 10^12 operations: what has weights, without attention.

    Backward passes count once, since frozen weights get no gradient; adapters, recomputation and
    the prefix are left out.
    """
    spec, text, state = shape.spec, shape.new_tokens, shape.spec.d_model
    heads, kv_heads = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    block = state * (2 * heads + 2 * kv_heads) + 3 * state * spec.intermediate_size
    whole, vocabulary = block * spec.num_layers, state * spec.vocab_size
    suffix = shape.prompt_len - shape.prefix_len
    # Its first samples' prefill is shared; the AR's template adds 13 tokens.
    rollout = num_responses * text * (whole + vocabulary)
    ar = num_responses * (text + 13) * block * shape.ar_layers * 2
    passes = 2 if kl == "none" else 3
    av = num_responses * ((suffix + text) * whole * passes + text * vocabulary * (passes + 1))
    return {name: 2e-12 * value for name, value in (("rollout", rollout), ("ar", ar), ("av", av))}


def rows(steps: Sequence[Mapping[str, float]], work: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row a phase, of medians over the counted steps."""
    total = statistics.median(step["seconds"] for step in steps)
    found = []
    for phase in (*PHASES, "rest", "step"):
        if phase == "step":
            each = [step["seconds"] for step in steps]
        elif phase == "rest":
            each = [s["seconds"] - sum(s[f"{name}_seconds"] for name in PHASES) for s in steps]
        else:
            each = [step[f"{phase}_seconds"] for step in steps]
        seconds = statistics.median(each)
        done = work.get(phase)
        found.append(
            {
                "phase": phase,
                "seconds": seconds,
                "share": seconds / total,
                "tflops": None if done is None else done / seconds,
                "runs": [round(one, 3) for one in each],
            }
        )
    return found


def main() -> None:
    """Train a few steps, print a table, write results/rl.json."""
    arguments = _arguments()
    if not arguments.smoke and not torch.cuda.is_available():
        raise SystemExit("error: no GPU; --smoke runs a tiny shape on a CPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = replace(SMOKE if arguments.smoke else SEVEN_B, new_tokens=NEW_TOKENS)
    settings = RlSettings(
        num_steps=1 + arguments.steps,
        prompts_per_step=arguments.prompts,
        samples_per_prompt=arguments.samples,
        max_new_tokens=shape.new_tokens,
        micro_batch=arguments.micro_batch,
        checkpoint_every=2 + arguments.steps,
        kl=KlSettings(kind=arguments.kl),
    )
    started = time.perf_counter()
    case = build(
        shape,
        num_prompts=arguments.prompts,
        samples=arguments.samples,
        rank=arguments.rank,
        is_checkpointed=arguments.checkpointing,
        device=device,
    )
    print(f"built in {time.perf_counter() - started:.0f} s, {memory()}", flush=True)
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        train_rl(
            case.pair,
            case.sampler,
            case.task,
            settings,
            seed=SEED,
            folder=Path(folder),
            progress=recorder,
            ranks=Ranks(device=device),
        )
    num_responses = arguments.prompts * arguments.samples
    found = rows(recorder.steps[1:], teraflop(shape, num_responses, arguments.kl))
    facts = {
        "shape": shape.name,
        "responses": num_responses,
        "tokens": num_responses * shape.new_tokens,
        "settings": {name: v for name, v in vars(arguments).items() if name != "output"},
        "samples_per_second": num_responses / found[-1]["seconds"],
        "k3": [figures["k3"] for figures in recorder.figures],
        "lost_in_rounding": [f.get("lost_in_rounding") for f in recorder.figures],
        **memory(),
    }
    print(table(found, COLUMNS))
    print(f"{facts}\n{machine()}")
    if not arguments.smoke or arguments.output is not None:
        command = "python benchmarks/bench_rl.py" + _told(arguments)
        print(write_result("rl", command, found, path=arguments.output, facts=facts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="counted steps")
    parser.add_argument("--prompts", type=int, help="activations of a step (64)")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--kl", choices=("exact", "k2", "none"), default="exact")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--output", type=Path, help="where the result goes (results/rl.json)")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, seconds on a CPU")
    arguments = parser.parse_args()
    if arguments.prompts is None:
        arguments.prompts = 2 if arguments.smoke else 64
    if arguments.steps < 1:
        parser.error(f"--steps: got {arguments.steps}, expected 1 or more")
    return arguments


def _told(arguments: argparse.Namespace) -> str:
    told = {n: v for n, v in vars(arguments).items() if n not in ("output", "smoke")}
    flags = [f"--{n.replace('_', '-')} {v}" for n, v in told.items() if not isinstance(v, bool)]
    flags += [f"--{name}" for name, value in told.items() if value is True]
    return "".join(f" {flag}" for flag in flags)


if __name__ == "__main__":
    main()
