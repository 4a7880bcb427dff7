"""Times on a GPU: the median replay of a CUDA graph, and what the machine reaches at best.

Launches from Python would be measured with the gaps between them; a captured graph runs them back
to back, as a decode step does. Several sets of inputs in turn keep the L2 cache from serving what
the engine would read from memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_CEILING_BYTES = 4 << 30
_MATMUL_SIZE = 8192
_LAUNCHES = 20
_REPLAYS = 15


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine reaches at best: bytes/s read and written by a copy, bf16 FLOP/s."""

    copy: float
    matmul: float


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


def seconds(runs: Sequence[Callable[[], object]], launches: int = _LAUNCHES) -> float:
    """Median time of one run, from replays of a graph that holds `launches` of them in turn.

    Raises:
        RuntimeError: a run asks the device something. Within a capture that would end this process'
            use of the GPU: a failed capture leaves PyTorch's random generator and current stream
            behind in it (pytorch #171263).
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs:
            run()
        with _asking_nothing():
            runs[0]()
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


@contextmanager
def _asking_nothing() -> Iterator[None]:
    """Within it whatever waits for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def seconds_launched(run: Callable[[], object]) -> float:
    """Median time of one run launched from Python, gaps included: for what asks the device, which
    no graph can hold."""
    run()
    times = []
    for _ in range(_REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)
