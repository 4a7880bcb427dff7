"""Runs and times kernels: what every `bench_<kernel>.py` and `gpu_kernels.py` share.

A benchmark file offers `KERNEL`, its stem, and `cases(shape, batch, device)`. For each case, first
the kernel's result is compared with the reference's; then kernel, a torch copy of equal bytes, the
eager reference and the compiled reference are timed (see `kernel_timing`). `of_copy` and
`of_matmul` are shares of two ceilings that the same run measures: a large copy and a large matrix
product. Without a GPU, `--smoke` compares every case, small, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any, Protocol

import torch
from common import table, write_result
from kernel_timing import Ceilings, ceilings, seconds, seconds_launched
from torch import Tensor

from gloss_engine.released import RELEASED_PAIRS, ReleasedPair

BATCHES = (256, 512, 64, 1)
"""In the order of what is wanted first, should the time not suffice for all."""
COLUMNS = (
    *("kernel", "case", "pair", "batch", "us", "gb_s", "of_copy", "tflop_s", "of_matmul"),
    *("copy_us", "x_copy", "eager_us", "compiled_us", "x_compiled", "error"),
)
SMOKE_SHAPE = replace(
    RELEASED_PAIRS[0],
    name="smoke",
    d_model=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=80,
    vocab_size=600,
)
SMOKE_BATCHES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel at one shape.

    Attributes:
        name: what it does, in a word or two.
        runs: the kernel on equal-sized sets of inputs; what one returns is compared. Several sets
            where the engine would find the data outside the L2 cache.
        reference: the plain PyTorch operation on the first set.
        reset: puts back what both write to in place, before each is compared.
        moved_bytes: unique bytes read and written, once each.
        flops: of its matrix products; 0 for a kernel without.
        tolerance: greatest ||kernel - reference|| / ||reference|| of any floating-point output.
        unequal: greatest share of the elements of an integer output that may differ.
        captures: whether the reference asks the device nothing, so that a graph can hold it and
            torch.compile makes one graph of it; else it is timed as launched, and not compiled.
        compiles: whether compiling it says anything; False where it is one library call.
    """

    name: str
    runs: Sequence[Callable[[], Any]]
    reference: Callable[[], Any]
    moved_bytes: int
    reset: Callable[[], object] = lambda: None
    flops: int = 0
    tolerance: float = 1e-2
    unequal: float = 0.0
    captures: bool = True
    compiles: bool = True


class Benchmark(Protocol):
    """A `bench_<kernel>` module."""

    KERNEL: str

    def cases(self, shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
        """Cases of one pair's shape at one batch."""


def check(case: Case) -> float:
    """The largest relative error of the kernel's outputs against the reference's.

    Raises:
        AssertionError: it is above the case's tolerance, or an integer output differs.
    """
    case.reset()
    expected = [tensor.clone() for tensor in _tensors(case.reference())]
    case.reset()
    got = _tensors(case.runs[0]())
    assert len(expected) == len(got), f"{case.name}: {len(got)} outputs, not {len(expected)}"
    worst = 0.0
    for wanted, have in zip(expected, got, strict=True):
        assert wanted.shape == have.shape, f"{case.name}: {have.shape}, not {wanted.shape}"
        assert wanted.dtype == have.dtype, f"{case.name}: {have.dtype}, not {wanted.dtype}"
        if not wanted.is_floating_point():
            differing, allowed = int((wanted != have).sum()), ceil(case.unequal * wanted.numel())
            assert differing <= allowed, f"{case.name}: {differing} of {wanted.numel()} differ"
            continue
        scale = wanted.double().norm()
        error = float((have.double() - wanted.double()).norm() / scale.clamp_min(1e-30))
        worst = max(worst, error)
        assert error <= case.tolerance, f"{case.name}: error {error} > {case.tolerance}"
    return worst


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a result, in order."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "dequantised"):
        return [value.dequantised()]
    return [tensor for part in value for tensor in _tensors(part)]


def prove(
    benchmark: Benchmark, shape: ReleasedPair, batch: int, until: float = inf
) -> list[dict[str, Any]]:
    """Compare one kernel's cases with the reference; one row each, with `error` or `failure`.

    Args:
        until: `time.monotonic()` after which no further case is compared.
    """
    torch.manual_seed(batch)

    def compared(case: Case) -> Iterator[dict[str, Any]]:
        yield {"error": check(case)}

    return _rows(benchmark, shape, batch, compared, until)


def measure(
    benchmark: Benchmark,
    shape: ReleasedPair,
    batch: int,
    limits: Ceilings,
    compile_until: float,
    until: float,
) -> list[dict[str, Any]]:
    """Time one kernel's cases at a shape and batch; one row each.

    Args:
        compile_until: `time.monotonic()` after which no reference is compiled any more.
        until: the same for timing anything.
    """
    return _rows(benchmark, shape, batch, lambda case: _times(case, limits, compile_until), until)


def _rows(
    benchmark: Benchmark,
    shape: ReleasedPair,
    batch: int,
    figures: Callable[[Case], Iterator[dict[str, Any]]],
    until: float,
) -> list[dict[str, Any]]:
    """A row for each case. Whatever goes wrong is the row's `failure`: what it had so far stays,
    and the others go on."""
    rows = []
    cases = iter(benchmark.cases(shape, batch, device()))
    while time.monotonic() < until:
        row = {"kernel": benchmark.KERNEL, "case": "?", "pair": shape.name, "batch": batch}
        try:
            case = next(cases)
            row["case"] = case.name
            for found in figures(case):
                row |= found
        except StopIteration:
            break
        except Exception as failure:
            row["failure"] = f"{type(failure).__name__}: {failure}"
        rows.append(row)
    return rows


def _times(case: Case, limits: Ceilings, compile_until: float) -> Iterator[dict[str, Any]]:
    """The kernel's figures, then what it is held to."""
    taken = seconds(case.runs)
    half = torch.empty(max(case.moved_bytes // 2, 1), dtype=torch.uint8, device="cuda")
    other = torch.empty_like(half)
    copied = seconds([lambda: other.copy_(half)])
    rate, flops = case.moved_bytes / taken, case.flops / taken
    yield {
        "us": taken * 1e6,
        "gb_s": rate / 1e9,
        "of_copy": rate / limits.copy,
        "tflop_s": flops / 1e12 if case.flops else None,
        "of_matmul": flops / limits.matmul if case.flops else None,
        "copy_us": copied * 1e6,
        "x_copy": taken / copied,
    }
    if not case.captures:
        yield {"eager_us": seconds_launched(case.reference) * 1e6}
        return
    yield {"eager_us": seconds([case.reference], launches=4) * 1e6}
    if case.compiles and time.monotonic() < compile_until:
        torch._dynamo.reset()
        compiled = seconds([torch.compile(case.reference, dynamic=False)])
        yield {"compiled_us": compiled * 1e6, "x_compiled": compiled / taken}


def main(benchmark: Benchmark) -> None:
    """The command line of a `bench_<kernel>.py`."""
    options = arguments(benchmark.__doc__)
    rows = run([benchmark], smoke=options.smoke, time_limit=3600.0, compile_limit=1800.0)
    report(f"bench_{benchmark.KERNEL}", rows, options.smoke, options.output)


def arguments(description: str | None) -> argparse.Namespace:
    """The options of every kernel benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="small, on a CPU; times nothing")
    parser.add_argument("--output", type=Path, help="JSON to write; default results/NAME.json")
    return parser.parse_args()


def run(
    benchmarks: Sequence[Benchmark], *, smoke: bool, time_limit: float, compile_limit: float
) -> list[dict[str, Any]]:
    """Prove every case, then time them until the time is up; one row a case.

    Args:
        time_limit: seconds from now after which nothing more is begun; such rows stay untimed.
        compile_limit: seconds from now after which no reference is compiled.
    """
    if not smoke and not torch.cuda.is_available():
        raise SystemExit("error: no GPU here; --smoke runs every case small on the CPU")
    started = time.monotonic()
    until = started + time_limit
    cells = [
        (shape, batch, benchmark)
        for batch in (SMOKE_BATCHES if smoke else BATCHES)
        for shape in ((SMOKE_SHAPE,) if smoke else RELEASED_PAIRS)
        for benchmark in benchmarks
    ]
    rows = [r for shape, batch, b in cells for r in prove(b, shape, batch, until)]
    print(f"{len(rows)} cases compared in {time.monotonic() - started:.0f} s", flush=True)
    if smoke:
        return rows
    limits = ceilings()
    by_place = {_place(row): row for row in rows}
    for shape, batch, benchmark in cells:
        for row in measure(benchmark, shape, batch, limits, started + compile_limit, until):
            proven = by_place.setdefault(_place(row), row)
            if "failure" not in proven:
                proven.update(row)
    print(f"timed until {time.monotonic() - started:.0f} s", flush=True)
    rows = list(by_place.values())
    rows.append({"kernel": "copy", "case": "ceiling", "gb_s": limits.copy / 1e9})
    rows.append({"kernel": "matmul", "case": "ceiling", "tflop_s": limits.matmul / 1e12})
    return rows


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("kernel", "case", "pair", "batch"))


def report(name: str, rows: list[dict[str, Any]], smoke: bool, output: Path | None) -> None:
    """Write the rows, unless nothing was timed, and print them as a table, last.

    Raises:
        SystemExit: status 1 where a kernel differs from its reference.
    """
    if not smoke:
        path = write_result(name, f"python benchmarks/{name}.py", rows, output)
        print(f"wrote {path}")
    failures = [row for row in rows if "failure" in row]
    for row in failures:
        print(f"WRONG {' '.join(str(part) for part in _place(row))}: {row['failure']}")
    print(table(rows, COLUMNS))
    if failures:
        raise SystemExit(1)


def device() -> torch.device:
    """The GPU, or the CPU, where kernels run in Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def interpret_without_gpu() -> None:
    """Let kernels run in Triton's interpreter; call before anything imports triton."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
