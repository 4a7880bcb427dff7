"""Every kernel: right first, then how fast. One command of at most five minutes on one GPU.

Compares every kernel with its reference at the shapes of the four released pairs and batches 1, 64,
256 and 512, measures the machine's ceilings, times the kernels beside a copy of equal bytes and the
eager and compiled reference, writes JSON and prints a table last. Kernels are compiled in several
processes first. What the time does not suffice for stays untimed in the table, never guessed.

    python benchmarks/gpu_kernels.py [--smoke] [--output FILE]

From a source tree: PYTHONPATH=kernels:server python benchmarks/gpu_kernels.py
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor, wait
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kernel_bench import (
    BATCHES,
    RELEASED_PAIRS,
    arguments,
    device,
    interpret_without_gpu,
    report,
    run,
)

TIME_LIMIT = 270.0
COMPILE_LIMIT = 220.0
WARM_LIMIT = 90.0
"""Seconds: for all of it, for beginning to compile a reference, for compiling kernels ahead."""

_PROCESSES = 8


def stems() -> list[str]:
    """Every kernel with a benchmark file."""
    found = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        if "KERNEL = " in path.read_text():
            found.append(path.stem)
    return found


def compile_case(stem: str, pair_index: int, batch: int) -> None:
    """Launch every kernel of one cell once, so that its machine code lies in Triton's cache."""
    benchmark: Any = import_module(stem)
    for case in benchmark.cases(RELEASED_PAIRS[pair_index], batch, device()):
        case.runs[0]()


def compile_all() -> None:
    """Compile what will be launched, in several processes; failures show in the comparison."""
    cells = [(s, p, b) for b in BATCHES for p in range(len(RELEASED_PAIRS)) for s in stems()]
    pool = ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn"))
    wait([pool.submit(compile_case, *cell) for cell in cells], timeout=WARM_LIMIT)
    pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """Run all of it."""
    options = arguments(__doc__)
    interpret_without_gpu()
    started = time.monotonic()
    if not options.smoke and device().type == "cuda":
        compile_all()
        print(f"compiled in {time.monotonic() - started:.0f} s", flush=True)
    spent = time.monotonic() - started
    benchmarks: list[Any] = [import_module(stem) for stem in stems()]
    rows = run(
        benchmarks,
        smoke=options.smoke,
        time_limit=TIME_LIMIT - spent,
        compile_limit=COMPILE_LIMIT - spent,
    )
    report("gpu_kernels", rows, options.smoke, options.output)


if __name__ == "__main__":
    main()
