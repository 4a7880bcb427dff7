"""Capture and replay, over a CUDA that only keeps the books."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gloss_engine.config import EngineConfig
from gloss_engine.step_graphs import StepGraphs
from gloss_engine.step_shape import DRAW_ONLY, StepShape, StepSizes
from gloss_kernels import Operations

Events = list[tuple[str, Any]]


class Books:
    """What was asked of CUDA and of the step, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: Events = []
        self.fails_at: StepShape | None = None
        books, events = self, self.events

        class Graph:
            def capture_begin(self, pool: object, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local" and not gc.isenabled()
                events.append(("begin", pool))
                self.shape: StepShape | None = None
                books.capturing = self

            def capture_end(self) -> None:
                books.capturing = None
                events.append(("end", None))

            def replay(self) -> None:
                events.append(("replay", self.shape))

        class Stream:
            def wait_stream(self, other: object) -> None:
                events.append(("wait", None))

            def synchronize(self) -> None:
                events.append(("synchronize", None))

        @contextmanager
        def stream(chosen: object) -> Any:
            yield

        self.capturing: Graph | None = None
        for name, fake in {
            "CUDAGraph": Graph,
            "Stream": Stream,
            "stream": stream,
            "current_stream": Stream,
            "graph_pool_handle": lambda: "pool",
            "empty_cache": lambda: events.append(("empty_cache", None)),
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def step(self, backend: str = "triton") -> Any:
        """A step on that CUDA."""
        slots = SimpleNamespace(require_presence=lambda: self.events.append(("presence", None)))
        decoder = SimpleNamespace(device=torch.device("cuda"), operations=Operations(backend))
        return SimpleNamespace(decoder=decoder, slots=slots, run=self._run)

    def _run(self, shape: StepShape, first: int = 0) -> None:
        self.events.append(("run", shape))
        if self.capturing is not None:
            self.capturing.shape = shape
            if shape == self.fails_at:
                raise RuntimeError("no capture of this")


def test_every_shape_runs_once_and_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one pool, the largest first, after the map that no graph may make."""
    books, sizes = Books(monkeypatch), StepSizes.listed(3, 2, 9)
    graphs = StepGraphs(books.step(), sizes)
    graphs.warm_up()
    expected: Events = [("presence", None), ("wait", None)]
    shapes = list(sizes.shapes())
    for shape in shapes:
        expected += [("run", shape), ("synchronize", None)]
        expected += [("begin", "pool"), ("run", shape), ("end", None)]
    assert books.events == [*expected, ("wait", None), ("empty_cache", None)]
    assert [shape.num_rows for shape in shapes] == sorted(
        (shape.num_rows for shape in shapes), reverse=True
    )
    assert len(graphs) == len(shapes) == 18 and gc.isenabled()


def test_the_reference_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sampler reads on the host how far to look, which ends a capture and the start with it."""
    books, sizes = Books(monkeypatch), StepSizes.listed(3, 2, 9)
    graphs = StepGraphs(books.step("reference"), sizes)
    graphs.warm_up()
    expected: Events = [("run", shape) for shape in sizes.shapes()]
    assert books.events == [("presence", None), *expected] and len(graphs) == 0


@pytest.mark.parametrize(("kernels", "listed"), [("auto", True), ("reference", False)])
def test_sizes_are_listed_where_graphs_are_captured(
    monkeypatch: pytest.MonkeyPatch, kernels: str, listed: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cuda", "auto"):
        sizes = EngineConfig(device=device, kernels=kernels).step_sizes(8, 2, 9)
        assert (sizes.rows is not None) == listed


def test_a_captured_shape_is_replayed_and_another_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    books, sizes = Books(monkeypatch), StepSizes.listed(4, 2, 9)
    graphs = StepGraphs(books.step(), sizes)
    graphs.warm_up()
    books.events.clear()
    captured = sizes.shape(3, 2, DRAW_ONLY, 5)
    many = sizes.shape(3, 3, DRAW_ONLY, 5)
    alone = sizes.shape(0, 1, DRAW_ONLY, 5)
    for shape in (captured, many, alone, captured):
        graphs.run(shape)
    assert books.events == [
        ("replay", captured), ("run", many), ("run", alone), ("replay", captured),
    ]  # fmt: skip


def test_a_capture_that_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes out, and neither a capture nor a switched-off collector stays behind."""
    books, sizes = Books(monkeypatch), StepSizes.listed(2, 1, 9)
    books.fails_at = list(sizes.shapes())[1]
    graphs = StepGraphs(books.step(), sizes)
    with pytest.raises(RuntimeError, match="no capture of this"):
        graphs.warm_up()
    assert books.events[-1] == ("end", None) and len(graphs) == 1 and gc.isenabled()
