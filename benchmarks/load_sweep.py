"""How much a server carries, and what it does beyond: a sweep of offered rates to saturation.

First the capacity: a closed loop that keeps all slots full. Then an open loop at each fraction of
it, Poisson arrivals, every latency from the moment a call was due. A call's deadline is the
objective of its end to end time, so that the server knows what an answer is worth. All of that in
several rounds, of which each figure is the median (`load_rounds.py`): the machine's own moods stand
in `goodput_low` and `goodput_high`.

`goodput` is explanations a second of calls that ended well within that. `call`, `first`, `gap` and
`refusal` are ms at a caller: end to end, to the first text, between messages with text, until a
refusal was there; `queue` is the server's own. `good`, `late`, `refused`, `expired` and `failed`
are shares of the calls and add up to 1. `wasted` is the share of the generated tokens that was for
calls that were not good. `generator`, `front` and `engine` are shares of a core; a point is not
`valid` when the generator was late itself.

    python benchmarks/load_sweep.py [--fractions F ..] [--capacity CALLS_PER_SECOND] [--rounds N]
        [--seconds S] [--warm-seconds S] [--mix RPC=W,..] [--items N] [--max-new-tokens N]
        [--end-to-end S] [--first-token S] [--refusal S] [--address HOST:PORT
        [--metrics-address HOST:PORT]] [--fake STEP_MS NUM_TOKENS] [--output FILE.json] [--smoke]

starts a server of its own with the embedded pair unless an address or the fake engine is named, and
writes FILE.json with FILE_latency.png and FILE_goodput.png beside it.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from common import RESULTS, machine, table, write_result
from load_plots import plot_goodput, plot_latencies
from load_point import Objectives, point_row, verdict
from load_records import MOST_GENERATOR_SHARE, MOST_LAG_SECONDS
from load_rounds import median_row, round_order
from load_run import NICENESS, LoadPlan, LoadRun, Server, run_load
from server_metrics import histogram_quantile
from server_process import ServerProcess

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc

FRACTIONS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
COLUMNS = (
    *(
        "fraction",
        "offered",
        "goodput",
        "goodput_low",
        "goodput_high",
        "call_p50",
        "call_p95",
        "call_p99",
        "first_p50",
    ),
    *("first_p95", "gap_p95", "queue_p99", "good", "late", "refused", "expired", "refusal_p50"),
    *("refusal_p99", "wasted", "lag_p99", "generator", "front", "engine", "valid"),
)
_CAPACITY_DEADLINE = 60.0
_USERS = 4
"""Connections of the open loop."""


def tell(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def measure_capacity(server: Server, plan: LoadPlan, items: int) -> float:
    """Calls a second with all slots full: a closed loop of as many explanations as there are slots.

    It also lets the server measure how fast it is, before anything is refused by that.
    """
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)
        num_slots = stub.GetStats(pb.GetStatsRequest(), timeout=10).num_slots
    closed = replace(
        plan,
        users=math.ceil(num_slots / items),
        deadline=_CAPACITY_DEADLINE,
        options={**plan.options, "mode": "closed"},
    )
    run = run_load(server, closed)
    ended = [call for call in run.records.calls if run.begin <= call.ended < run.end]
    return sum(call.code == "OK" for call in ended) / plan.seconds


def measure_point(
    server: Server, plan: LoadPlan, rate: float, objectives: Objectives
) -> dict[str, Any]:
    """The row of one offered rate, calls a second."""
    options = {**plan.options, "mode": "open", "rate": rate / plan.users}
    run = run_load(server, replace(plan, options=options))
    row = point_row(run.records.calls, run.begin, run.end, objectives)
    row |= run.cpu | _of_the_server(run, row)
    row["valid"] = (
        row["lag_p99"] is not None
        and row["lag_p99"] <= 1000 * MOST_LAG_SECONDS
        and run.cpu["generator"] <= MOST_GENERATOR_SHARE
    )
    return row


def _of_the_server(run: LoadRun, row: dict[str, Any]) -> dict[str, Any]:
    """What the server's own metrics say of the window."""
    if run.before is None or run.after is None:
        return {}
    found: dict[str, Any] = {}
    for name, histogram in (
        ("queue", "gloss_queue_time_seconds"),
        ("step", "gloss_engine_step_seconds"),
    ):
        for share in (0.5, 0.95, 0.99):
            value = histogram_quantile(run.before, run.after, histogram, share)
            found[f"{name}_p{round(100 * share)}"] = None if value is None else 1000 * value
    generated = run.grown("gloss_generated_tokens_total")
    if generated:
        found["wasted"] = max(1 - row["good_tokens"] / generated, 0.0)
    return found


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found.

    Attributes:
        capacities: explanations a second with all slots full, of each round that measured it.
        rounds: a row a rate and round, as they were measured.
    """

    capacities: list[float]
    rounds: list[dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a rate, by rising rate."""
        by_fraction: dict[float, list[dict[str, Any]]] = {}
        for row in self.rounds:
            by_fraction.setdefault(row["fraction"], []).append(row)
        return [median_row(rows) for _, rows in sorted(by_fraction.items())]


def sweep(
    server: Server, plan: LoadPlan, objectives: Objectives, arguments: argparse.Namespace
) -> Sweep:
    """Measure every rate in every round. The first round's capacity sets the rates."""
    items, rate = arguments.items, arguments.capacity
    capacities, rounds = [], []
    for number in range(arguments.rounds):
        if arguments.capacity is None:
            capacity = measure_capacity(server, plan, items)
            rate = rate or capacity
            capacities.append(items * capacity)
            tell(f"round {number + 1} of {arguments.rounds}: {capacity:.1f} calls/s of {items}")
        for fraction in round_order(arguments.fractions, number, arguments.seed):
            row = measure_point(server, plan, fraction * rate, objectives)
            offered = items * row["offered"]
            row = {"round": number, "fraction": fraction, "offered_explanations": offered, **row}
            rounds.append(row)
            tell(
                f"{fraction:g}: offered {row['offered']:.1f} calls/s, goodput "
                f"{row['goodput']:.1f}/s, refused {row['refused']:.0%}, "
                f"expired {row['expired']:.0%}"
            )
    return Sweep(capacities=capacities or [items * rate], rounds=rounds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS)
    parser.add_argument("--capacity", type=float, help="calls a second; default: measured")
    parser.add_argument("--rounds", type=int, default=3, help="of all rates")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a point's window")
    parser.add_argument("--warm-seconds", type=float, default=5.0, help="before it")
    parser.add_argument("--mix", default="Verbalize=3,StreamVerbalize=1")
    parser.add_argument("--items", type=int, default=4, help="activations of a call")
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--end-to-end", type=float, default=2.0, help="objective and deadline")
    parser.add_argument("--first-token", type=float, default=0.25, help="objective of p95")
    parser.add_argument("--refusal", type=float, default=0.05, help="objective of p99")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="of a server that runs; default: starts one")
    parser.add_argument("--metrics-address", default="", help="its /metrics")
    parser.add_argument("--fake", type=float, nargs=2, metavar=("STEP_MS", "NUM_TOKENS"))
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    return parser


def _serve(arguments: argparse.Namespace, held: ExitStack) -> Server:
    if arguments.address:
        return Server(address=arguments.address, metrics_address=arguments.metrics_address)
    fake = None
    if arguments.fake:
        fake = (arguments.fake[0], int(arguments.fake[1]))
    process = held.enter_context(ServerProcess(fake=fake))
    return Server(
        address=process.address,
        metrics_address=process.metrics_address,
        pids={"front": process.front_pid, "engine": process.engine_pid},
    )


def main() -> None:
    """Sweep, write the results, print the table."""
    arguments = _parser().parse_args()
    started = time.perf_counter()
    if arguments.smoke:
        arguments.fractions, arguments.seconds, arguments.warm_seconds = (1.0,), 2.0, 1.0
        arguments.capacity, arguments.rounds = 8.0, 2
    objectives = Objectives(
        end_to_end=arguments.end_to_end,
        first_token=arguments.first_token,
        refusal=arguments.refusal,
    )
    plan = LoadPlan(
        users=_USERS,
        warm_seconds=arguments.warm_seconds,
        seconds=arguments.seconds,
        deadline=objectives.end_to_end,
        niceness=0 if arguments.smoke else NICENESS,
        options={
            "mix": arguments.mix,
            "items": arguments.items,
            "max-new-tokens": arguments.max_new_tokens,
            "seed": arguments.seed,
        },
    )
    ran_on = machine()
    with ExitStack() as held:
        server = _serve(arguments, held)
        found = sweep(server, plan, objectives, arguments)
    rows, capacity = found.rows, median(found.capacities)
    result = {"capacity": capacity, **verdict(rows, objectives)}
    output = arguments.output
    settings = {
        **asdict(plan),
        "rounds": arguments.rounds,
        "items": arguments.items,
        "objectives": asdict(objectives),
    }
    write_result(
        output.stem,
        f"python benchmarks/load_sweep.py {shlex.join(sys.argv[1:])}".strip(),
        rows,
        output,
        ran_on,
        {
            "settings": settings,
            "capacities": found.capacities,
            "verdict": result,
            "rounds": found.rounds,
        },
    )
    plot_latencies(rows, asdict(objectives), output.with_name(f"{output.stem}_latency.png"))
    plot_goodput(rows, capacity, output.with_name(f"{output.stem}_goodput.png"))
    tell(f"{output}, {time.perf_counter() - started:.0f} s\n{ran_on}")
    print(table(rows, COLUMNS))
    for name, value in result.items():
        print(f"{name}: {'-' if value is None else f'{value:.3g}'}")


if __name__ == "__main__":
    main()
