"""Runs and times kernels: what every `bench_<kernel>.py` and `gpu_kernels.py` share.

A benchmark file offers `KERNEL`, its stem, and `cases(shape, batch, device)`. For each case, first
the kernel's result is compared with the reference's; then kernel, a torch copy of equal bytes, the
eager reference and the compiled reference are timed, each as the replay of a CUDA graph in which it
runs many times over rotating sets of inputs. `of_copy` and `of_matmul` are shares of two ceilings
that the same run measures: a large copy and a large matrix product. Without a GPU, `--smoke` runs
every case once, small, in Triton's interpreter; its times mean nothing and are not written.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from common import table, write_result
from torch import Tensor

from gloss_engine.released import RELEASED_PAIRS, ReleasedPair

BATCHES = (1, 64, 256, 512)
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
_CEILING_BYTES = 4 << 30
_MATMUL_SIZE = 8192
_GRAPH_LAUNCHES = 20
_REPLAYS = 15


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
        tolerance: greatest ||kernel - reference|| / ||reference|| of any floating-point output;
            integer outputs must be equal.
        compiles: whether torch.compile can take the reference as it is.
    """

    name: str
    runs: Sequence[Callable[[], Any]]
    reference: Callable[[], Any]
    moved_bytes: int
    reset: Callable[[], object] = lambda: None
    flops: int = 0
    tolerance: float = 1e-2
    compiles: bool = True


class Benchmark(Protocol):
    """A `bench_<kernel>` module."""

    KERNEL: str

    def cases(self, shape: ReleasedPair, batch: int, device: torch.device) -> Iterator[Case]:
        """Cases of one pair's shape at one batch."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine reaches at best: bytes/s read and written by a copy, bf16 FLOP/s."""

    copy: float
    matmul: float


def on_gpu() -> bool:
    """Whether there is a GPU to measure on."""
    return torch.cuda.is_available()


def ceilings() -> Ceilings:
    """Measure both on the GPU."""
    source = torch.randn(_CEILING_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    copy = seconds([lambda: target.copy_(source)], launches=4)
    left, right = (
        torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    )
    product = torch.empty_like(left)
    matmul = seconds([lambda: torch.mm(left, right, out=product)], launches=4)
    return Ceilings(copy=2 * _CEILING_BYTES / copy, matmul=2 * _MATMUL_SIZE**3 / matmul)


def seconds(runs: Sequence[Callable[[], object]], launches: int = _GRAPH_LAUNCHES) -> float:
    """Median time of one run, from replays of a graph that holds `launches` of them in turn."""
    if not on_gpu():
        started = time.perf_counter()
        runs[0]()
        return time.perf_counter() - started
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs:
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(launches):
            runs[index % len(runs)]()
    graph.replay()
    times = []
    for _ in range(_REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / launches)
    return statistics.median(times)


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
        if not wanted.is_floating_point():
            assert torch.equal(wanted, have), f"{case.name}: integer outputs differ"
            continue
        scale = wanted.double().norm()
        error = (have.double() - wanted.double()).norm() / scale.clamp_min(1e-30)
        worst = max(worst, float(error))
        assert worst <= case.tolerance, f"{case.name}: error {float(error)} > {case.tolerance}"
    return worst


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a result, in order."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "dequantised"):
        return [value.dequantised()]
    return [tensor for part in value for tensor in _tensors(part)]


def shapes(smoke: bool) -> tuple[ReleasedPair, ...]:
    """The released pairs, or one small shape."""
    return (SMOKE_SHAPE,) if smoke else RELEASED_PAIRS


def measure(
    benchmark: Benchmark,
    shape: ReleasedPair,
    batch: int,
    limits: Ceilings | None,
    compile_until: float,
) -> list[dict[str, Any]]:
    """Check and time one kernel's cases at a shape and batch; one row each.

    Args:
        limits: None where nothing is timed.
        compile_until: `time.monotonic()` after which no reference is compiled any more.
    """
    device = torch.device("cuda" if on_gpu() else "cpu")
    rows = []
    for case in benchmark.cases(shape, batch, device):
        row: dict[str, Any] = {
            "kernel": benchmark.KERNEL,
            "case": case.name,
            "pair": shape.name,
            "batch": batch,
            "error": check(case),
        }
        if limits is not None:
            row |= _times(case, limits, compile_until)
        rows.append(row)
    return rows


def _times(case: Case, limits: Ceilings, compile_until: float) -> dict[str, Any]:
    taken = seconds(case.runs)
    half = torch.empty(max(case.moved_bytes // 2, 1), dtype=torch.uint8, device="cuda")
    other = torch.empty_like(half)
    copied = seconds([lambda: other.copy_(half)])
    eager = _or_none(lambda: seconds([case.reference], launches=4))
    compiled = None
    if case.compiles and time.monotonic() < compile_until:
        torch._dynamo.reset()
        function = torch.compile(case.reference, dynamic=False)
        compiled = _or_none(lambda: seconds([function]))
    rate, flops = case.moved_bytes / taken, case.flops / taken
    return {
        "us": taken * 1e6,
        "gb_s": rate / 1e9,
        "of_copy": rate / limits.copy,
        "tflop_s": flops / 1e12 if case.flops else None,
        "of_matmul": flops / limits.matmul if case.flops else None,
        "copy_us": copied * 1e6,
        "x_copy": taken / copied,
        "eager_us": None if eager is None else eager * 1e6,
        "compiled_us": None if compiled is None else compiled * 1e6,
        "x_compiled": None if compiled is None else compiled / taken,
    }


def _or_none(timed: Callable[[], float]) -> float | None:
    """A time, or None where the reference cannot be captured in a graph: it asks the device."""
    try:
        return timed()
    except RuntimeError:
        torch.cuda.synchronize()
        return None


def main(benchmark: Benchmark) -> None:
    """The command line of a `bench_<kernel>.py`."""
    parser = argparse.ArgumentParser(description=benchmark.__doc__)
    parser.add_argument("--smoke", action="store_true", help="small, on a CPU; times nothing")
    parser.add_argument("--output", type=Path, help="JSON to write; default results/NAME.json")
    options = parser.parse_args()
    rows = run([benchmark], smoke=options.smoke, compile_seconds=600.0)
    report(f"bench_{benchmark.KERNEL}", rows, options.smoke, options.output)


def run(
    benchmarks: Sequence[Benchmark], *, smoke: bool, compile_seconds: float
) -> list[dict[str, Any]]:
    """All cases of all benchmarks; every check of a kernel stands before its first timing."""
    if not smoke and not on_gpu():
        raise SystemExit("error: no GPU here; --smoke runs every case small on the CPU")
    limits = ceilings() if on_gpu() and not smoke else None
    compile_until = time.monotonic() + compile_seconds
    rows = []
    for benchmark in benchmarks:
        for shape in shapes(smoke):
            for batch in (1, 3) if smoke else BATCHES:
                rows += measure(benchmark, shape, batch, limits, compile_until)
    if limits is not None:
        rows.append({"kernel": "copy", "case": "ceiling", "gb_s": limits.copy / 1e9})
        rows.append({"kernel": "matmul", "case": "ceiling", "tflop_s": limits.matmul / 1e12})
    return rows


def report(name: str, rows: list[dict[str, Any]], smoke: bool, output: Path | None) -> None:
    """Write the rows, unless nothing was timed, and print them as a table, last."""
    if not smoke:
        path = write_result(name, f"python benchmarks/{name}.py", rows, output)
        print(f"wrote {path}")
    print(table(rows, COLUMNS))


def interpret_without_gpu() -> None:
    """Let kernels run in Triton's interpreter; call before anything imports triton."""
    if not on_gpu():
        os.environ["TRITON_INTERPRET"] = "1"
