"""Steps captured as CUDA graphs, one a shape: a replay is one call whatever the step launches.

All graphs share one memory pool, since only one runs at a time and none leaves anything behind but
the slots' state. Without capture (on a CPU, and of the reference, whose sampler asks the device how
far to look) a step just runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch

from gloss_engine.models.decoder import Decoder
from gloss_engine.slots import Slots
from gloss_engine.step_shape import StepShape, StepSizes


class GraphStep(Protocol):
    """A step that can be captured: the AV's (`step.py`) or the target's (`target/step.py`).

    Attributes:
        decoder: the model it runs.
        slots: the state of its sequences.
    """

    decoder: Decoder
    slots: Slots

    def run(self, shape: StepShape, first: int = 0) -> None:
        """Run one step over the slots from `first` on; queued on the device when this returns."""


class StepGraphs:
    """Runs steps, captured or not.

    Args:
        step: what runs.
        sizes: the shapes to capture.
    """

    def __init__(self, step: GraphStep, sizes: StepSizes) -> None:
        self.step, self.sizes = step, sizes
        self._graphs: dict[StepShape, torch.cuda.CUDAGraph] = {}

    def __len__(self) -> int:
        """Shapes that have a graph."""
        return len(self._graphs)

    def run(self, shape: StepShape, first: int = 0) -> None:
        """Run a step over the slots from `first` on; queued on the device when this returns."""
        graph = self._graphs.get(shape)
        if graph is None or first:
            self.step.run(shape, first)
        else:
            graph.replay()

    def parts(self, shape: StepShape) -> list[tuple[StepShape, int]]:
        """Smaller steps over the same rows, with the first row of each: two halves.

        A step that has a graph stays whole: the graph has the memory it takes.
        """
        n = shape.num_rows
        if shape in self._graphs or n < 2:
            return [(shape, 0)]
        lower, upper = (replace(shape, num_rows=size) for size in (n // 2, n - n // 2))
        return [(lower, 0), (upper, n // 2)]

    def warm_up(self) -> None:
        """Run every listed shape once and capture it where that goes; no sequence may be running.

        The first run compiles kernels and makes the library handles that capture may not make.
        """
        # A graph that made this map would clear it at every replay.
        self.step.slots.require_presence()
        decoder = self.step.decoder
        if decoder.device.type != "cuda" or decoder.operations.backend == "reference":
            for shape in self.sizes.shapes():
                self.step.run(shape)
            return
        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), _no_collection():
            for shape in self.sizes.shapes():
                self.step.run(shape)
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                try:
                    self.step.run(shape)
                finally:
                    graph.capture_end()
                self._graphs[shape] = graph
        torch.cuda.current_stream().wait_stream(stream)
        # What the first runs took on that stream is of no use to another.
        torch.cuda.empty_cache()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage is collected before, not during: no old graph may go while one is captured."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
