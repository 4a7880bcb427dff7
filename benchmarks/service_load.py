"""The service beside the engine in process: the same requests, as many in flight.

Both run the embedded pair with scores, with the same number of CPU threads. Draws depend on (seed,
item_key) and on nothing else, so every way must give the same texts, and that is counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import uvloop
from common import Timing, alternate, quantile
from grpc_load import CallTimes, keep_in_flight, make_request
from server_process import ServerProcess, cpu_seconds

from gloss_engine import Engine, EngineConfig, SamplingParams, VerbalizeRequest, load_engine
from gloss_server.embedded import embedded_pair

SEED = 1
MAX_NEW_TOKENS = 120
_BUSY = 0.9
"""Share of its own limit from which something counts as what limits."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One load.

    Attributes:
        in_flight: explanations at any time; batch: activations of a call.
        num_explanations: of a run.
    """

    in_flight: int
    batch: int
    num_explanations: int

    def __post_init__(self) -> None:
        assert self.in_flight % self.batch == 0 and self.num_explanations % self.batch == 0

    @property
    def num_calls(self) -> int:
        """Calls at any time."""
        return self.in_flight // self.batch


@dataclass(kw_only=True)
class Record:
    """What the runs of one way and one cell took, the unmeasured first one aside.

    Attributes:
        calls: all of them; texts: by item_key, from all runs.
        client_cpu, front_cpu, engine_cpu: CPU seconds.
    """

    calls: list[CallTimes] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    client_cpu: float = 0.0
    front_cpu: float = 0.0
    engine_cpu: float = 0.0


class InProcess:
    """The engine in this process: what the service is compared with.

    Args:
        activations: [n, d_model] float32.
        num_threads: CPU threads.
    """

    name = "in process"

    def __init__(self, activations: np.ndarray, num_threads: int) -> None:
        self._activations = activations
        pair = embedded_pair()
        self._engine: Engine = load_engine(
            str(pair.av), str(pair.ar), EngineConfig(num_threads=num_threads)
        )

    def run(self, cell: Cell, record: Record) -> None:
        """Keep the cell's explanations in flight until all are done."""
        before = time.process_time()
        engine = self._engine
        starts = iter(range(0, cell.num_explanations, cell.batch))
        open_calls: dict[str, tuple[int, CallTimes]] = {}

        def submit(count: int) -> None:
            for start in islice(starts, count):
                call = CallTimes(began=time.monotonic())
                open_calls[engine.submit(self._request(start, cell.batch))] = (start, call)

        submit(cell.num_calls)
        while open_calls:
            out = engine.step()
            now = time.monotonic()
            for request_id, _ in out.started:
                call = open_calls[request_id][1]
                call.first_text = call.first_text or now
            for explanation in out.explanations:
                start, call = open_calls[explanation.request_id]
                call.texts[start + explanation.index] = explanation.explanation
            for request_id in out.finished:
                call = open_calls.pop(request_id)[1]
                call.ended = now
                record.calls.append(call)
                record.texts |= call.texts
                submit(1)
        record.engine_cpu += time.process_time() - before

    def _request(self, start: int, batch: int) -> VerbalizeRequest:
        keys = tuple(range(start, start + batch))
        return VerbalizeRequest(
            activations=self._activations[start : start + batch],
            item_keys=keys,
            sampling=SamplingParams(seed=SEED, max_new_tokens=MAX_NEW_TOKENS),
        )


class OverGrpc:
    """The service, called from this process.

    Args:
        activations: [n, d_model] float32.
        server: it runs.
        is_streamed: StreamVerbalize, or else Verbalize.
    """

    def __init__(self, activations: np.ndarray, server: ServerProcess, is_streamed: bool) -> None:
        self._activations, self._server, self._is_streamed = activations, server, is_streamed
        self.name = "stream" if is_streamed else "unary"

    def run(self, cell: Cell, record: Record) -> None:
        """Keep the cell's explanations in flight until all are done."""
        requests = [
            make_request(self._activations[start : start + cell.batch], start, SEED, MAX_NEW_TOKENS)
            for start in range(0, cell.num_explanations, cell.batch)
        ]
        server = self._server
        client = time.process_time()
        front, engine = cpu_seconds(server.front_pid), cpu_seconds(server.engine_pid)
        calls = uvloop.run(
            keep_in_flight(server.address, requests, cell.num_calls, self._is_streamed)
        )
        record.client_cpu += time.process_time() - client
        record.front_cpu += cpu_seconds(server.front_pid) - front
        record.engine_cpu += cpu_seconds(server.engine_pid) - engine
        record.calls += calls
        for call in calls:
            record.texts |= call.texts


Way = InProcess | OverGrpc


def measure_service(
    cells: tuple[Cell, ...],
    num_threads: int,
    repeats: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """All cells, each way in turn; their rows.

    Args:
        num_threads: of the engine, in either process.
        tell: is told of progress.
    """
    torch.set_num_threads(num_threads)
    activations = load_activations(max(cell.num_explanations for cell in cells))
    rows: list[dict[str, Any]] = []
    with ServerProcess(num_threads=num_threads) as server:
        ways: tuple[Way, ...] = (
            InProcess(activations, num_threads),
            OverGrpc(activations, server, is_streamed=False),
            OverGrpc(activations, server, is_streamed=True),
        )
        for cell in cells:
            tell(f"{cell.in_flight} in flight, {cell.batch} a call")
            rows += _measure_cell(cell, ways, num_threads, repeats)
    return rows


def load_activations(count: int) -> np.ndarray:
    """The embedded pair's own activations, over and over: [count, d_model] float32."""
    table = pq.read_table(embedded_pair().activations, columns=["activation_vector"])
    column = table["activation_vector"].combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
    return np.resize(rows, (count, rows.shape[1]))


def _measure_cell(
    cell: Cell, ways: tuple[Way, ...], num_threads: int, repeats: int
) -> list[dict[str, Any]]:
    records = {way.name: Record() for way in ways}
    is_warm: set[str] = set()

    def contender(way: Way) -> Callable[[], None]:
        def run() -> None:
            way.run(cell, records[way.name])
            if way.name not in is_warm:
                is_warm.add(way.name)
                records[way.name] = Record()

        return run

    timings = alternate({way.name: contender(way) for way in ways}, repeats)
    base = ways[0].name
    rows = []
    for name, timing in timings.items():
        row = _row(cell, name, timing, records[name], num_threads)
        if name != base:
            row["ratio"] = _median_ratio(timings[base].runs, timing.runs)
            texts, same = records[base].texts, records[name].texts
            row["same_texts"] = sum(texts[key] == same[key] for key in texts) / len(texts)
        rows.append(row)
    return rows


def _row(cell: Cell, name: str, timing: Timing, record: Record, num_threads: int) -> dict[str, Any]:
    wall, explanations = sum(timing.runs), cell.num_explanations * len(timing.runs)
    first = [call.first_text - call.began for call in record.calls if call.first_text is not None]
    calls = [call.ended - call.began for call in record.calls]
    row: dict[str, Any] = {
        "call": name,
        "in_flight": cell.in_flight,
        "batch": cell.batch,
        "explanations": cell.num_explanations,
        "per_second": timing.per_second(cell.num_explanations),
        "call_p50": _milliseconds(calls, 0.5),
        "call_p95": _milliseconds(calls, 0.95),
        "first_p50": _milliseconds(first, 0.5),
        "first_p95": _milliseconds(first, 0.95),
        "engine_ms": 1000 * record.engine_cpu / explanations,
        "runs": [round(run, 4) for run in timing.runs],
    }
    if name != InProcess.name:
        row["messages"] = sum(call.num_messages for call in record.calls) / explanations
        row["front_ms"] = 1000 * record.front_cpu / explanations
        row["client_cpu"] = record.client_cpu / wall
        row["limit"] = _limit(record, wall, num_threads)
    return row


def _limit(record: Record, wall: float, num_threads: int) -> str:
    """What was busy throughout: client or front (one core each), all cores, or the engine."""
    total = record.client_cpu + record.front_cpu + record.engine_cpu
    shares = {
        "client": record.client_cpu / wall,
        "front": record.front_cpu / wall,
        "cores": total / wall / (os.cpu_count() or 1),
        "engine": record.engine_cpu / wall / num_threads,
    }
    return next((name for name, share in shares.items() if share >= _BUSY), "none")


def _milliseconds(seconds: list[float], share: float) -> float | None:
    found = quantile(seconds, share)
    return None if found is None else 1000 * found


def _median_ratio(base: tuple[float, ...], runs: tuple[float, ...]) -> float:
    """Rate over the base's, the median of the pairs' ratios, so that drift cancels."""
    ratios = sorted(a / b for a, b in zip(base, runs, strict=True))
    return ratios[len(ratios) // 2]
