"""The engine on one GPU, beside its floor and its peers: one command of at most nine minutes.

Ceilings of the machine; a cold start-up; logits against float32; explanations per second of the
engine at the 7B shape (batch 1, 64, 256, 512; bf16 and fp8; without and with AR scoring), with
latencies, start-up and memory; how often batches change an explanation; the same work by
transformers, on the same weights. Writes JSON after every figure and prints a table last. Parts run
in the order of what is wanted first (suite_parts); what the time does not suffice for is a row that
says so. Ctrl-C prints the table of what there is and exits with 130.

    python benchmarks/gpu_suite.py [--minutes 9] [--output FILE] [--profile-dir DIR] [--only TEXT]

From a source tree: PYTHONPATH=kernels:server python benchmarks/gpu_suite.py
Without a GPU: --smoke runs every part small on the CPU, in bf16; its figures mean nothing.

The time counts from here, before torch is loaded, and Triton's cache is an empty folder of this run
unless TRITON_CACHE_DIR names another: so the heavy imports stand in the functions that need them.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suite_parts import Part, Suite
    from suite_report import Report

STARTED = time.monotonic()
INTERRUPTED = 130
"""128 + SIGINT, as a shell says it."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or `given`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="every part, small, on the CPU")
    parser.add_argument("--minutes", type=minutes, default=9.0, help="for all of it; default 9")
    parser.add_argument(
        "--output", type=Path, help="JSON to write; default results/gpu_suite.json, smoke: none"
    )
    parser.add_argument("--profile-dir", type=Path, help="profile decode steps, tables go here")
    parser.add_argument(
        "--only", nargs="+", help="run the parts whose names contain one of these, and ceilings"
    )
    parser.add_argument("--commit", help="name of the commit, where git cannot say")
    return parser.parse_args(given)


def minutes(text: str) -> float:
    """A time above zero that ends."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}, expected a number of minutes above 0")
    return value


@contextmanager
def kernel_cache() -> Iterator[Path | None]:
    """An empty folder for Triton's cache while the suite runs; None where the caller set one."""
    if os.environ.get("TRITON_CACHE_DIR"):
        yield None
        return
    with TemporaryDirectory(prefix="gloss-triton-", ignore_cleanup_errors=True) as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["TRITON_CACHE_DIR"]


def new_suite(*, smoke: bool, fresh_cache: bool) -> Suite:
    """The suite at the 7B shape, or small on the CPU."""
    import torch
    from suite_parts import FULL, SMALL, Suite
    from transformers.utils import logging

    from gloss_engine import EngineConfig

    if not smoke and not torch.cuda.is_available():
        raise SystemExit("error: no GPU here; --smoke runs every part small on the CPU")
    logging.set_verbosity_error()
    getLogger("ContinuousBatchingLogger").setLevel(ERROR)
    if smoke:
        # All that goes with graphs, the lag included, but not their capture.
        config = EngineConfig(device="cpu", dtype="bfloat16", graphs="on", lag=1)
        return Suite(SMALL, config, fresh_cache=fresh_cache)
    config = EngineConfig(device="cuda", dtype="bfloat16")
    return Suite(FULL, config, fresh_cache=fresh_cache)


def run(report: Report, wanted: list[Part], *, timed: bool) -> int:
    """Run parts, those that the time suffices for where `timed`; gives the exit status."""
    try:
        for part in wanted:
            report.run(part.name, part.seconds if timed else 0, part.rows)
    except KeyboardInterrupt:
        report.stop("interrupted")
        return INTERRUPTED
    report.print()
    return 1 if report.failed else 0


def main() -> None:
    """Run what the time suffices for."""
    options = arguments()
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    with kernel_cache() as cache:
        suite = new_suite(smoke=options.smoke, fresh_cache=cache is not None)
        from common import RESULTS
        from suite_parts import chosen, parts
        from suite_report import Report

        output = options.output or (None if options.smoke else RESULTS / "gpu_suite.json")
        try:
            wanted = chosen(parts(suite, options.profile_dir), options.only)
            report = Report(command, options.minutes, output, options.commit, started=STARTED)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from error

        def clean_up() -> None:
            if cache is not None:
                shutil.rmtree(cache, ignore_errors=True)

        report.give_up_in_time(clean_up)
        status = run(report, wanted, timed=not options.smoke)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
