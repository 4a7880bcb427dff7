"""Capture, `Explain` and `Watch`: what reading activations costs, and how fast they are explained.

overhead  What a capture adds to a forward pass of the target, in the engine and on a transformers
          model, there beside `output_hidden_states` and beside a hook with a host copy; first all
          ways must give the same rows. Ways run in turn, and `extra_us` is the median of the
          rounds' differences with its 95% bounds; "the same again" is the noise. `goal` says
          whether the share of the pass is under 1% (capture_timing, capture_passes, capture_model).
explain   From a text to the explanations of all its tokens: the first one, the whole, per token,
          and explanations a second; in process and, of the embedded pair, by a server
          (capture_explain).
watch     Target tokens a second with and without explanations, how far behind these are, what was
          skipped, and the time between tokens beside its bound, by the target's share of time
          (capture_watch). Times in ms.

On a CPU: the embedded pair, and for `overhead` a Qwen2 0.5B shape of four blocks, in about six
minutes. On a GPU: the Qwen2.5-7B shape with random weights made there, in about five, with nothing
to install or to download:

    PYTHONPATH=kernels:server python benchmarks/bench_capture.py

Options: [--part overhead|explain|watch ...] [--device auto|cpu|cuda] [--threads N] [--minutes M]
         [--output FILE] [--smoke]
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from capture_stages import PARTS, Row, Stage, cpu_stages, gpu_stages
from common import machine, table, write_result
from transformers.utils import logging

from gloss_engine import ConfigError, EngineConfig

COLUMNS = {
    "overhead": (
        *("subject", "pass", "tokens", "rows", "way", "rounds", "plain_ms", "ms", "extra_us"),
        *("extra_us_low", "extra_us_high", "share", "share_low", "share_high", "goal"),
    ),
    "watch": (
        *("subject", "watches", "pace", "share", "scored", "tokens_per_second", "of_alone"),
        *("explanations_per_second", "lag_p50", "lag_p95", "gap_p50", "gap_p95", "gap_max"),
        *("usual_bound", "bound", "target_step", "av_step", "skipped", "goal"),
    ),
    "explain": (
        *("subject", "way", "scored", "tokens", "first_ms", "whole_ms", "ms_per_token"),
        *("per_second", "read_ms", "explanation_tokens"),
    ),
}


def run(
    stages: list[Stage], until: float, keep: Callable[[list[Row]], object] = lambda rows: None
) -> list[Row]:
    """The rows of all stages; what fails, or finds no time, is a row that says so.

    Args:
        until: `time.monotonic()` after which nothing more is begun.
        keep: is given the rows so far after every stage.
    """
    rows: list[Row] = []
    started = time.monotonic()
    for stage in stages:
        print(f"{time.monotonic() - started:4.0f} s  {stage.part}", flush=True)
        try:
            for row in stage.rows():
                rows.append({"part": stage.part, **row})
                if time.monotonic() > until:
                    rows.append({"part": stage.part, "not_run": "there is more, the time was up"})
                    break
        except Exception as error:
            traceback.print_exc()
            rows.append({"part": stage.part, "failure": f"{type(error).__name__}: {error}"})
        keep(rows)
    return rows


def report(rows: list[Row]) -> None:
    """What failed or is missing, then a table for each part, last."""
    for row in rows:
        for why in ("failure", "not_run"):
            if why in row:
                print(f"{why.upper()} {row['part']}: {row[why]}")
    measured = [row for row in rows if "subject" in row]
    for part in PARTS:
        shown = [row for row in measured if row["part"] == part]
        if shown:
            print(f"\n{table(shown, COLUMNS[part])}", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing is begun after")
    parser.add_argument("--output", type=Path, help="JSON to write; smoke: none by default")
    parser.add_argument("--smoke", action="store_true", help="small, on a CPU, in seconds")
    return parser.parse_args()


def main() -> None:
    """Measure what is wanted, write results/capture.json or capture_gpu.json, print the tables.

    Raises:
        SystemExit: no such device; status 1 where something failed.
    """
    options = arguments()
    started = time.monotonic()
    device = "cpu" if options.smoke else options.device
    try:
        on_gpu = EngineConfig(device=device).resolve_device().type == "cuda"
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    stages = gpu_stages() if on_gpu else cpu_stages(options.threads, options.smoke)
    wanted = [stage for stage in stages if stage.part in options.part]
    command = f"python benchmarks/bench_capture.py --part {' '.join(options.part)}"
    command += f" --device {'cuda' if on_gpu else 'cpu'} --threads {options.threads}"
    command += " --smoke" if options.smoke else ""

    ran_on = machine()

    def keep(rows: list[Row]) -> None:
        name = "capture_gpu" if on_gpu else "capture"
        if not options.smoke or options.output is not None:
            write_result(name, command, rows, options.output, ran_on)

    rows = run(wanted, started + 60 * options.minutes, keep)
    print(f"{ran_on}\n{time.monotonic() - started:.0f} s, {options.threads} threads")
    report(rows)
    if any("failure" in row for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
