"""A server under load for a long time: does it hold, and does its memory stay.

All RPCs in an open loop at a share of what it carries, and beside them clients that cancel, run
out of time, do not read, send nonsense and vanish (`soak_faults.py`); with --kill-engine the engine
dies now and then. Meanwhile a look every few seconds at memory, descriptors and threads of both
processes, and at the gauges. It fails, with status 1, when

    resident memory of the front or the engine grows by more than --bound MiB a minute: the
        Theil-Sen slope of its floor, the lowest of each half minute, after a warm-up of a quarter
        of the time. At 20 calls/s 1 MiB a minute is 0.9 KB a call: a list that keeps each call, or
        a message, is seen. An engine that was killed in the latter half is not judged;
    a call ends with a status that is neither OK nor a refusal, with an explanation that failed, or
        later than its deadline and a second; a fault's call with a status that it should not have;
    afterwards a gauge is not 0, or a page is held.

    python benchmarks/soak.py [--minutes M] [--rate R | --share S] [--bound MIB]
        [--kill-engine SECONDS] [--seed N] [--output FILE.json] [--smoke]

writes FILE.json, and FILE.png with the memory over time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from common import RESULTS, machine, table, write_result
from load_plots import plot_soak
from load_records import CallRecord
from load_run import NICENESS, LoadPlan, LoadRun, Server, run_load
from load_sweep import measure_capacity, tell
from server_process import ServerProcess
from service_load import load_activations
from soak_faults import MAX_UNREAD_BYTES, Faults, Killer
from soak_samples import GAUGES, Sampler

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc

MIX = (
    "Verbalize=6,StreamVerbalize=4,Explain=2,Watch=1,Capture=1,Reconstruct=1,Score=1,"
    "GetModelInfo=1,GetStats=1"
)
_USERS, _ITEMS, _DEADLINE = 4, 4, 10.0
_CAPACITY_SECONDS, _WARM_SHARE = 10.0, 0.25
_IDLE_SECONDS, _POLL_SECONDS = 20.0, 0.1
_GRACE_SECONDS = 1.0
"""After its deadline, until which a call has one status."""
COLUMNS = ("rpc", "calls", "ok", "refused", "other", "call_p95_ms")


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How long and how hard.

    Attributes:
        minutes: of the load.
        rate: calls a second; None: a share of the capacity, which is measured first.
        sample_seconds, fault_seconds: between two looks, and two faults in the mean.
        kill_seconds: between two kills of the engine; None: none.
        bound: MiB a minute.
        niceness: of the load.
    """

    minutes: float
    rate: float | None
    share: float
    sample_seconds: float
    fault_seconds: float
    kill_seconds: float | None
    bound: float
    niceness: int
    seed: int


def soak(process: ServerProcess, settings: Soak) -> dict[str, Any]:
    """Load a server and look at it; what was found."""
    server = Server(address=process.address, metrics_address=process.metrics_address)
    plan = LoadPlan(
        users=_USERS,
        warm_seconds=4.0,
        seconds=_CAPACITY_SECONDS,
        deadline=_DEADLINE,
        niceness=settings.niceness,
        options={"mix": MIX, "items": _ITEMS, "seed": settings.seed},
    )
    rate = settings.rate or settings.share * measure_capacity(server, plan, _ITEMS)
    tell(f"{rate:.1f} calls/s for {settings.minutes:g} minutes")
    options = {**plan.options, "mode": "open", "rate": rate / _USERS}
    plan = replace(plan, warm_seconds=0.0, seconds=60 * settings.minutes, options=options)
    sampler = Sampler(process.address, process.front_pid, settings.sample_seconds)
    faults = Faults(process.address, load_activations(256), settings.fault_seconds, settings.seed)
    killer = None
    with ExitStack() as held:
        for thread in (sampler, faults):
            thread.start()
            held.callback(thread.stop)
        if settings.kill_seconds is not None:
            killer = Killer(process.front_pid, settings.kill_seconds)
            killer.start()
            held.callback(killer.stop)
        run = run_load(server, plan)
    num_kills = 0 if killer is None else killer.count
    since = _WARM_SHARE * 60 * settings.minutes
    samples = sampler.samples
    slopes = {name: samples.slope(f"{name}_mib", since) for name in ("front", "engine")}
    return {
        "rate": rate,
        "calls": len(run.records.calls),
        "kills": num_kills,
        "faults": {f"{fault}: {code}": n for (fault, code), n in sorted(faults.outcomes.items())},
        "slope_mib_per_minute": slopes,
        "generator": run.records.generator,
        "failures": [
            *_slope_failures(slopes, settings.bound),
            *_call_failures(run, bool(num_kills)),
            *(f"{what} x{n}" for what, n in faults.unexpected(bool(num_kills)).items()),
            *_left_behind(process.address),
        ],
        "samples": {"at": samples.at, **samples.values},
        "by_rpc": _by_rpc(run.records.calls),
    }


def _slope_failures(slopes: dict[str, float | None], bound: float) -> list[str]:
    return [
        f"{name}: memory grows by {slope:.2f} MiB a minute, expected at most {bound:g}"
        for name, slope in slopes.items()
        if slope is not None and slope > bound
    ]


def _call_failures(run: LoadRun, engine_was_killed: bool) -> list[str]:
    """Calls of the load that ended as none should."""
    allowed = ("OK", "RESOURCE_EXHAUSTED", *(("UNAVAILABLE",) if engine_was_killed else ()))
    odd = Counter(call.code for call in run.records.calls if call.code not in allowed)
    found = [f"calls of the load: {code} x{count}" for code, count in odd.items()]
    failed = sum(call.failed for call in run.records.calls)
    found += [f"explanations that failed: {failed}"] * bool(failed)
    late = [c for c in run.records.calls if c.ended - c.began > _DEADLINE + _GRACE_SECONDS]
    return found + [f"calls that ended over a second past their deadline: {len(late)}"] * bool(late)


def _left_behind(address: str) -> list[str]:
    """What a server that nobody calls still holds after a while."""
    latest = time.monotonic() + _IDLE_SECONDS
    with grpc.insecure_channel(address) as channel:
        stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)
        while True:
            stats = stub.GetStats(pb.GetStatsRequest(), timeout=10)
            left = {name: getattr(stats, name) for name in GAUGES if getattr(stats, name)}
            # The call that asks is one itself.
            if stats.calls_in_flight != 1:
                left["calls_in_flight"] = stats.calls_in_flight - 1
            if not left or time.monotonic() > latest:
                return [f"afterwards {name} is {value}, expected 0" for name, value in left.items()]
            time.sleep(_POLL_SECONDS)


def _by_rpc(calls: tuple[CallRecord, ...]) -> list[dict[str, Any]]:
    rows = []
    for rpc in sorted({call.rpc for call in calls}):
        those = [call for call in calls if call.rpc == rpc]
        well = sorted(call.end_to_end for call in those if call.code == "OK")
        refused = sum(call.is_refusal for call in those)
        rows.append(
            {
                "rpc": rpc,
                "calls": len(those),
                "ok": len(well),
                "refused": refused,
                "other": len(those) - len(well) - refused,
                "call_p95_ms": 1000 * well[int(0.95 * (len(well) - 1))] if well else None,
            }
        )
    return rows


def main() -> int:
    """Soak, write the results, print what was found; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, help="calls a second; default: --share")
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity")
    parser.add_argument("--bound", type=float, default=1.0, help="of the memory, MiB a minute")
    parser.add_argument("--kill-engine", type=float, metavar="SECONDS", help="between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    parser.add_argument("--smoke", action="store_true", help="seconds; memory is not judged")
    arguments = parser.parse_args()
    settings = Soak(
        minutes=0.1 if arguments.smoke else arguments.minutes,
        rate=8.0 if arguments.smoke else arguments.rate,
        share=arguments.share,
        sample_seconds=0.5 if arguments.smoke else 2.0,
        fault_seconds=0.2 if arguments.smoke else 1.0,
        kill_seconds=arguments.kill_engine,
        bound=float("inf") if arguments.smoke else arguments.bound,
        niceness=0 if arguments.smoke else NICENESS,
        seed=arguments.seed,
    )
    ran_on = machine()
    with ServerProcess(max_unread_bytes=MAX_UNREAD_BYTES) as process:
        found = soak(process, settings)
    rows = found.pop("by_rpc")
    output = arguments.output
    plot_soak(found["samples"], output.with_suffix(".png"))
    command = f"python benchmarks/soak.py {shlex.join(sys.argv[1:])}".strip()
    facts = {"minutes": settings.minutes, "mib_per_minute_bound": arguments.bound, **found}
    write_result(output.stem, command, rows, output, ran_on, facts)
    tell(f"{output}\n{ran_on}")
    print(table(rows, COLUMNS))
    for name, slope in found["slope_mib_per_minute"].items():
        print(f"{name}: {'-' if slope is None else f'{slope:.2f}'} MiB a minute")
    print(f"faults: {found['faults']}, kills: {found['kills']}")
    for failure in found["failures"]:
        print(f"failed: {failure}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
