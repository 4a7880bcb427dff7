"""The front alone: what it takes of a core while a fast fake engine gives it tokens.

The clients have processes of their own, so that the front's CPU time is the front's. Everything is
read over the same window, whose begin all processes are told beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import quantile
from fake_engine import D_MODEL, NUM_SLOTS
from server_process import ServerProcess, cpu_seconds, sleep_until

GOAL_PER_SECOND = 300.0
"""Explanations a second that one core of the front should carry, of 120 streamed tokens each."""
_CLIENT = Path(__file__).with_name("grpc_load.py")
_START_SECONDS = 1.5
_BUSY = 0.9
"""Share of its own limit from which something counts as what limits."""


@dataclass(frozen=True, kw_only=True)
class FrontLoad:
    """Calls in flight.

    Attributes:
        is_streamed: StreamVerbalize, or else Verbalize.
        num_calls: at any time, over all clients; batch: activations of each.
        num_clients: processes that send them.
    """

    is_streamed: bool
    num_calls: int
    batch: int
    num_clients: int = 1

    @property
    def in_flight(self) -> int:
        """Explanations at any time."""
        return self.num_calls * self.batch


LOADS = (
    FrontLoad(is_streamed=True, num_calls=256, batch=1),
    FrontLoad(is_streamed=True, num_calls=8, batch=32),
    FrontLoad(is_streamed=False, num_calls=256, batch=1),
)


@dataclass(frozen=True, kw_only=True)
class FrontPlan:
    """How long, and at which pace.

    Attributes:
        step_ms: of the fake engine; num_tokens: of each explanation.
        warm_seconds: before the window; window_seconds: of it.
    """

    step_ms: float
    num_tokens: int
    warm_seconds: float
    window_seconds: float

    @property
    def explanation_seconds(self) -> float:
        """From an explanation's first step to its last."""
        return self.num_tokens * self.step_ms / 1000

    def offered(self, load: FrontLoad) -> float:
        """Explanations a second that the engine gives for a load, at most."""
        return min(load.in_flight, NUM_SLOTS) / self.explanation_seconds


def measure_front(load: FrontLoad, plan: FrontPlan, profile: Path | None = None) -> dict[str, Any]:
    """One load against a fresh server; its row.

    Args:
        profile: where py-spy writes a flame graph of the front's window; it slows the front.
    """
    with ServerProcess(fake=(plan.step_ms, plan.num_tokens)) as server, ExitStack() as held:
        begin = time.monotonic() + _START_SECONDS + plan.warm_seconds
        clients = [
            held.enter_context(_client(server.address, load, plan, begin))
            for _ in range(load.num_clients)
        ]
        sleep_until(begin)
        pids = (server.front_pid, server.engine_pid)
        before = [cpu_seconds(pid) for pid in pids]
        if profile is not None:
            _profile(server.front_pid, profile, plan.window_seconds)
        sleep_until(begin + plan.window_seconds)
        front, engine = (
            cpu_seconds(pid) - earlier for pid, earlier in zip(pids, before, strict=True)
        )
        seen = [_finish(client) for client in clients]
    return _row(load, plan, seen, front, engine)


@contextmanager
def _client(
    address: str, load: FrontLoad, plan: FrontPlan, begin: float
) -> Iterator[subprocess.Popen[bytes]]:
    """A client's process, which never outlives the block."""
    command = [sys.executable, str(_CLIENT), address]
    options = {
        "--calls": load.num_calls // load.num_clients,
        "--batch": load.batch,
        "--width": D_MODEL,
        "--max-new-tokens": plan.num_tokens,
        "--begin": begin,
        "--seconds": plan.window_seconds,
        # Ends spread over an explanation's length, as they are wherever lengths differ.
        "--ramp": plan.explanation_seconds,
    }
    command += [str(word) for option in options.items() for word in option]
    command += ["--stream"] * load.is_streamed
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _finish(client: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, _ = client.communicate(timeout=120)
    if client.returncode:
        raise RuntimeError(f"a client ended with status {client.returncode}")
    return dict(json.loads(out))


def _row(
    load: FrontLoad, plan: FrontPlan, seen: list[dict[str, Any]], front: float, engine: float
) -> dict[str, Any]:
    def total(name: str) -> float:
        return sum(client[name] for client in seen)

    def milliseconds(name: str, share: float) -> float | None:
        found = quantile((value for client in seen for value in client[name]), share)
        return None if found is None else 1000 * found

    seconds, explanations = plan.window_seconds, total("explanations")
    offered, achieved = plan.offered(load), explanations / plan.window_seconds
    front_seconds = front / explanations
    return {
        "call": "stream" if load.is_streamed else "unary",
        "calls": load.num_calls,
        "batch": load.batch,
        "tokens": plan.num_tokens,
        "offered": offered,
        "achieved": achieved,
        "messages": total("messages") / explanations,
        "front_ms": 1000 * front_seconds,
        f"core_at_{GOAL_PER_SECOND:.0f}": GOAL_PER_SECOND * front_seconds,
        "first_p50": milliseconds("first_text_seconds", 0.5),
        "first_p95": milliseconds("first_text_seconds", 0.95),
        "gap_p50": milliseconds("gap_seconds", 0.5),
        "gap_p95": milliseconds("gap_seconds", 0.95),
        "call_p50": milliseconds("call_seconds", 0.5),
        "call_p95": milliseconds("call_seconds", 0.95),
        "front_cpu": front / seconds,
        "engine_cpu": engine / seconds,
        "client_cpu": total("cpu_seconds") / seconds,
        "limit": _limit(front / seconds, engine / seconds, seen, seconds),
        "clients": load.num_clients,
        "seconds": seconds,
        "step_ms": plan.step_ms,
    }


def _limit(front: float, engine: float, seen: list[dict[str, Any]], seconds: float) -> str:
    """What was busy throughout: a client or the front (one core each), or all cores."""
    clients = [client["cpu_seconds"] / seconds for client in seen]
    shares = {
        "client": max(clients),
        "front": front,
        "cores": (front + engine + sum(clients)) / (os.cpu_count() or 1),
    }
    return next((name for name, share in shares.items() if share >= _BUSY), "none")


def _profile(pid: int, path: Path, seconds: float) -> None:
    """Sample a process; needs py-spy, which is not among the dependencies."""
    py_spy = shutil.which("py-spy")
    if py_spy is None:
        raise RuntimeError("--profile: got no py-spy on the path; pip install py-spy")
    command = [py_spy, "record", "--pid", str(pid), "--duration", str(max(round(seconds) - 1, 1))]
    subprocess.run([*command, "--output", str(path), "--nonblocking"], check=True)
