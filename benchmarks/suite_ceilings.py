"""What the machine reaches at best, as the floor needs it: a copy, a product, a product in fp8.

On a GPU the times are replays of graphs (kernel_timing); the fp8 product is the engine's own, over
rows quantised before. On a CPU, where a floor says little, the same over a smaller size by the
host's clock, in float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from kernel_timing import ceilings as gpu_ceilings
from kernel_timing import seconds
from suite_report import Row

from gloss_engine.floor import Ceilings
from gloss_kernels import Operations

_GPU_SIZE = 8192
_CPU_SIZE = 512
_CPU_REPEATS = 20


def measure(device: torch.device) -> Ceilings:
    """Copy and product; that in fp8 is not known yet (NaN)."""
    copy, product = _gpu() if device.type == "cuda" else _cpu()
    return Ceilings(bytes_per_second=copy, flop_per_second=product, fp8_flop_per_second=math.nan)


def rows(ceilings: Ceilings, device: torch.device) -> Iterator[Row]:
    """What `measure` found."""
    copy, product = ceilings.bytes_per_second / 1e9, ceilings.flop_per_second / 1e12
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    yield Row(figure="ceiling_copy", value=copy, unit="GB/s", note="bytes read and written")
    yield Row(figure="ceiling_matmul", value=product, unit="TFLOP/s", dtype=dtype)


@torch.inference_mode()
def measure_fp8(device: torch.device) -> float:
    """FLOP/s of the engine's fp8 product; on a CPU that is the reference's, in float32."""
    on_gpu = device.type == "cuda"
    operations = Operations("triton" if on_gpu else "reference")
    size = _GPU_SIZE if on_gpu else _CPU_SIZE
    left, right = (
        operations.quantize_fp8(torch.randn(size, size, device=device, dtype=torch.bfloat16))
        for _ in range(2)
    )

    def run() -> object:
        return operations.linear_fp8(left, right, dtype=torch.bfloat16)

    return 2 * size**3 / (seconds([run], launches=4) if on_gpu else _host_seconds(run))


def fp8_row(rate: float, device: torch.device) -> Row:
    """What `measure_fp8` found."""
    note = None if device.type == "cuda" else "emulated in float32"
    return Row(figure="ceiling_matmul", value=rate / 1e12, unit="TFLOP/s", dtype="fp8", note=note)


def _gpu() -> tuple[float, float]:
    found = gpu_ceilings()
    return found.copy, found.matmul


@torch.inference_mode()
def _cpu() -> tuple[float, float]:
    left, right = (torch.randn(_CPU_SIZE, _CPU_SIZE) for _ in range(2))
    target = torch.empty_like(left)
    copy = 2 * left.nbytes / _host_seconds(lambda: target.copy_(left))
    return copy, 2 * _CPU_SIZE**3 / _host_seconds(lambda: torch.mm(left, right, out=target))


def _host_seconds(run: Callable[[], object]) -> float:
    """The least of several runs: a ceiling is what is reached at best."""
    times = []
    for _ in range(_CPU_REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)
