"""The parts of `bench_capture.py`, by machine: what is measured on what, how much, how long.

A stage yields rows; its models are loaded when its first row is asked for. Running stages within
the time is bench_capture's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from capture_engine import TextEngine, embedded_engine, shape_engine
from capture_explain import measure_explain
from capture_model import check_models_agree, model_pass
from capture_passes import Cell, reading, step, whole_pass
from capture_subject import (
    HALF_BILLION,
    Subject,
    embedded_subject,
    loaded_subject,
    shape_subject,
)
from capture_watch import loads, measure_watches
from suite_shape import SEVEN_B, SMOKE, Shape

from gloss_engine import EngineConfig

PARTS = ("overhead", "watch", "explain")
PASSES = (reading, whole_pass, model_pass)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything.

    Attributes:
        lengths: tokens of the texts that captures are timed on.
        num_rows: rows that are captured of each; a text's length stands for a larger number.
        steps: sequences of the steps that captures are timed in.
        cell_seconds: of one comparison.
        explained: tokens of the texts that are explained.
        texts: of each length.
        watches, shares, pace: as `capture_watch.loads` takes them.
        warm_seconds, window_seconds: of one load.
    """

    lengths: tuple[int, ...]
    num_rows: tuple[int, ...]
    steps: tuple[int, ...]
    cell_seconds: float
    explained: tuple[int, ...]
    texts: int
    watches: tuple[int, ...] = (1, 4)
    shares: tuple[float, ...] = (0.2, 0.5, 0.8)
    pace: float = 20.0
    warm_seconds: float = 1.0
    window_seconds: float = 5.0

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(*self.lengths, *self.explained)


EMBEDDED = Sizes(
    lengths=(32, 128),
    num_rows=(1, 32, 128),
    steps=(1, 4),
    cell_seconds=4.0,
    explained=(8, 32, 128),
    texts=7,
)
ON_CPU = replace(EMBEDDED, lengths=(64,), num_rows=(1, 32, 64), steps=(1,), cell_seconds=8.0)
"""Of the 0.5B shape, which is only captured from."""
ON_GPU = Sizes(
    lengths=(128, 2048),
    num_rows=(1, 32, 2048),
    steps=(1, 8),
    cell_seconds=3.0,
    explained=(512, 2048),
    texts=2,
    warm_seconds=1.5,
    window_seconds=3.0,
)
SMALL = Sizes(
    lengths=(24,),
    num_rows=(1, 24),
    steps=(2,),
    cell_seconds=0.05,
    explained=(8,),
    texts=1,
    watches=(2,),
    shares=(0.5,),
    warm_seconds=0.1,
    window_seconds=0.4,
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rows of one part about one subject."""

    part: str
    rows: Callable[[], Iterator[Row]]


def overhead(subject: Subject, settings: EngineConfig, sizes: Sizes) -> Iterator[Row]:
    """What captures cost one subject, once it is checked that all run the same model.

    A comparison that fails is a row that says so; the others go on.
    """
    longest = max(sizes.lengths)
    whole = Cell(length=longest, num_rows=longest, seconds=0.0)
    yield check_models_agree(subject, whole)
    cells = [
        Cell(length=length, num_rows=count, seconds=sizes.cell_seconds)
        for length in sizes.lengths
        for count in sorted({min(count, length) for count in sizes.num_rows})
    ]
    compared = [partial(one, subject, cell) for cell in cells for one in PASSES]
    for count in sizes.steps:
        cell = Cell(length=min(sizes.lengths), num_rows=count, seconds=sizes.cell_seconds)
        compared.append(partial(step, subject, settings, cell))
    for compare in compared:
        try:
            yield from compare()
        except Exception as error:
            yield {"failure": f"{subject.name}: {type(error).__name__}: {error}"}


def cpu_stages(num_threads: int, smoke: bool) -> list[Stage]:
    """The embedded pair and the 0.5B shape; smoke: what runs on a GPU as well, small."""
    sizes = SMALL if smoke else EMBEDDED
    settings = EngineConfig(device="cpu", num_threads=num_threads)

    @cache
    def loaded() -> TextEngine:
        return embedded_engine(num_threads, sizes.longest)

    def captures() -> Iterator[Row]:
        work = loaded().engine.target
        assert work is not None
        text_ids = list(loaded().texts[0])
        yield from overhead(embedded_subject(work.target, text_ids), settings, sizes)

    def shape_captures() -> Iterator[Row]:
        limits = replace(settings, max_text_tokens=256, max_watch_tokens=256)
        most = max(ON_CPU.lengths)
        subject = shape_subject("0.5b, 4 blocks", HALF_BILLION, 2, limits, most)
        yield from overhead(subject, limits, ON_CPU)

    def explains() -> Iterator[Row]:
        from server_process import ServerProcess

        from gloss_client import Client

        with (
            ServerProcess(num_threads=num_threads) as server,
            Client(server.address) as client,
        ):
            yield from measure_explain(loaded(), sizes.explained, sizes.texts, client)

    stages = [
        Stage(part="overhead", rows=captures),
        Stage(part="watch", rows=lambda: watch(loaded(), sizes)),
        Stage(part="explain", rows=explains),
    ]
    if not smoke:
        return [stages[0], Stage(part="overhead", rows=shape_captures), *stages[1:]]
    return [*stages, *shape_stages(SMOKE, 1, small_settings(num_threads), sizes)]


def small_settings(num_threads: int) -> EngineConfig:
    """As on a GPU, but small: all that goes with graphs, the lag included, but their capture."""
    return EngineConfig(
        device="cpu",
        dtype="bfloat16",
        graphs="on",
        lag=1,
        num_slots=4,
        num_watches=2,
        max_text_tokens=64,
        max_watch_tokens=48,
        num_threads=num_threads,
    )


def gpu_stages() -> list[Stage]:
    """The 7B shape, read at block 20 like the released pair; nothing is loaded yet."""
    config = EngineConfig(device="cuda", dtype="bfloat16", max_text_tokens=ON_GPU.longest)
    return shape_stages(SEVEN_B, 20, config, ON_GPU)


def shape_stages(shape: Shape, layer_index: int, config: EngineConfig, sizes: Sizes) -> list[Stage]:
    """A shape of which target, AV and AR are made with random weights."""

    @cache
    def loaded() -> TextEngine:
        return shape_engine(shape, layer_index, config, sizes.longest)

    def captures() -> Iterator[Row]:
        work = loaded().engine.target
        assert work is not None
        subject = loaded_subject(shape.name, work.target, shape.config, max(sizes.lengths))
        yield from overhead(subject, config, sizes)

    def explains() -> Iterator[Row]:
        yield from measure_explain(loaded(), sizes.explained, sizes.texts)

    return [
        Stage(part="overhead", rows=captures),
        Stage(part="watch", rows=lambda: watch(loaded(), sizes)),
        Stage(part="explain", rows=explains),
    ]


def watch(loaded: TextEngine, sizes: Sizes) -> Iterator[Row]:
    """Every load."""
    every = loads(sizes.shares, sizes.watches, sizes.pace)
    yield from measure_watches(loaded, every, sizes.warm_seconds, sizes.window_seconds)
