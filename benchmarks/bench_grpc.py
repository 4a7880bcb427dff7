"""What the service costs: beside the engine in process, and the front alone.

service   The embedded pair, scored, 1 to 256 explanations in flight in a closed loop: in process,
          and over gRPC with unary calls and with streams, one activation a call and 32. Runs
          alternate, and `ratio` is a way's rate over the rate in process. `first` is the time to
          the first text, `call` to the end of the call, both in ms. `front_ms` and `engine_ms` are
          CPU time of the two processes for each explanation; in process, the engine's is that of
          this process. `same_texts` is the share of texts that are those in process.
front     The front with a fake engine at a set pace (256 slots, 120 tokens each), its clients in
          processes of their own. `core_at_300` is 300 times the front's CPU time for an
          explanation: its share of a core at 300 explanations a second, which should be below 1.
          It is computed, not run, wherever `achieved` is less: client, front and engine share the
          machine's cores. `offered` is what the engine's slots give at its pace; at a slower pace
          an explanation is sent in more messages and costs more.

`limit` says what was busy throughout, from 90% on: the client (one core), the front (one core), all
cores together, or the engine's threads; a rate that the client or the cores limit is no figure of
the service. `client_cpu`, `front_cpu` and `engine_cpu` are shares of one core.

    python benchmarks/bench_grpc.py [--part service|front|all] [--threads N] [--step-ms MS]
                                    [--clients N] [--profile FILE.svg] [--smoke]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import machine, table, write_result
from front_load import LOADS, FrontPlan, measure_front
from service_load import Cell, measure_service

SERVICE_COLUMNS = (
    *("call", "in_flight", "batch", "per_second", "ratio", "call_p50", "call_p95"),
    *("first_p50", "first_p95", "messages", "front_ms", "engine_ms", "client_cpu"),
    *("same_texts", "limit"),
)
FRONT_COLUMNS = (
    *("call", "calls", "batch", "offered", "achieved", "messages", "front_ms", "core_at_300"),
    *("first_p50", "first_p95", "gap_p50", "gap_p95", "call_p50", "call_p95"),
    *("front_cpu", "engine_cpu", "client_cpu", "limit"),
)
CELLS = (
    Cell(in_flight=1, batch=1, num_explanations=20),
    Cell(in_flight=4, batch=1, num_explanations=64),
    Cell(in_flight=16, batch=1, num_explanations=192),
    Cell(in_flight=64, batch=1, num_explanations=384),
    Cell(in_flight=256, batch=1, num_explanations=768),
    Cell(in_flight=64, batch=32, num_explanations=384),
    Cell(in_flight=256, batch=32, num_explanations=768),
)
SMOKE_CELLS = (
    Cell(in_flight=2, batch=1, num_explanations=4),
    Cell(in_flight=8, batch=4, num_explanations=8),
)


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def bench_service(smoke: bool, num_threads: int) -> list[dict[str, Any]]:
    """The service beside the engine in process."""
    cells, repeats = (SMOKE_CELLS, 1) if smoke else (CELLS, 3)
    return measure_service(cells, num_threads, repeats, tell)


def bench_front(
    smoke: bool, step_ms: float, num_clients: int, profile: Path | None
) -> list[dict[str, Any]]:
    """The front alone."""
    plan = FrontPlan(step_ms=step_ms, num_tokens=120, warm_seconds=3.0, window_seconds=12.0)
    loads = tuple(replace(load, num_clients=num_clients) for load in LOADS)
    if smoke:
        plan = FrontPlan(step_ms=step_ms, num_tokens=24, warm_seconds=0.0, window_seconds=1.0)
        loads = (replace(loads[0], num_calls=8 * num_clients),)
    rows = []
    for number, load in enumerate(loads):
        kind = "stream" if load.is_streamed else "unary"
        tell(f"front: {kind}, {load.num_calls} calls of {load.batch}")
        rows.append(measure_front(load, plan, None if number else profile))
    return rows


def main() -> None:
    """Measure, write results/grpc.json, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("service", "front", "all"), default="all")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the engine")
    parser.add_argument("--step-ms", type=float, default=7.0, help="pace of the fake engine")
    parser.add_argument("--clients", type=int, default=1, help="processes that load the front")
    parser.add_argument("--profile", type=Path, help="flame graph of the front, by py-spy")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    arguments = parser.parse_args()
    smoke, started = arguments.smoke, time.perf_counter()
    service: list[dict[str, Any]] = []
    front: list[dict[str, Any]] = []
    if arguments.part in ("service", "all"):
        service = bench_service(smoke, arguments.threads)
    if arguments.part in ("front", "all"):
        front = bench_front(smoke, arguments.step_ms, arguments.clients, arguments.profile)
    # A sampled front is slower than it is.
    if not smoke and arguments.profile is None:
        command = f"python benchmarks/bench_grpc.py --part {arguments.part}"
        command += f" --threads {arguments.threads} --step-ms {arguments.step_ms:g}"
        command += f" --clients {arguments.clients}"
        rows = [{"part": "service", **row} for row in service]
        rows += [{"part": "front", **row} for row in front]
        tell(str(write_result("grpc", command, rows)))
    tell(f"{machine()}\n{time.perf_counter() - started:.0f} s, {arguments.threads} threads")
    tables = ((service, SERVICE_COLUMNS), (front, FRONT_COLUMNS))
    print("\n\n".join(table(rows, columns) for rows, columns in tables if rows))


if __name__ == "__main__":
    main()
