"""What a soak looks at while it runs: memory, descriptors and threads of the server's processes,
and its gauges; and how fast memory grows."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from server_process import children

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc

GAUGES = ("running", "waiting", "waiting_to_score", "reading", "watching", "kv_pages_used")
"""All 0 of a server that does nothing."""
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SECONDS = 5.0
_NUM_FLOORS = 15
"""Stretches whose lowest looks count; half a minute each of a soak of 10 minutes."""


@dataclass(kw_only=True)
class Samples:
    """A look every few seconds.

    Attributes:
        at: seconds since the begin, of each.
        values: by name such as `front_mib`, one for each look; None: it could not be had.
        engine_pids: the engine's process at each; 0: there was none.
    """

    at: list[float] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    engine_pids: list[int] = field(default_factory=list)

    def slope(self, name: str, since: float) -> float | None:
        """By how much the floor of a value rises, a minute: a batch's buffers rise above it and go,
        what is never given back raises it. None: too few looks, or of the engine's values that its
        last process has not lived for half of the time.

        Args:
            since: seconds since the begin from which on looks count.
        """
        last = self.engine_pids[-1] if self.engine_pids else 0
        points = [
            (at / 60, value)
            for at, value, pid in zip(self.at, self.values[name], self.engine_pids, strict=True)
            if at >= since and value is not None and (pid == last or not name.startswith("engine"))
        ]
        if not points or points[-1][0] - points[0][0] < (self.at[-1] - since) / 60 / 2:
            return None
        floor = floors(points, _NUM_FLOORS)
        return theil_sen([x for x, _ in floor], [y for _, y in floor])


class Sampler(threading.Thread):
    """Looks at a server until it is told to stop.

    Args:
        address: of gRPC; front_pid: its first process.
        every: seconds between two looks.
    """

    def __init__(self, address: str, front_pid: int, every: float) -> None:
        super().__init__(daemon=True)
        self.samples = Samples()
        self._address, self._front, self._every = address, front_pid, every
        self._stop_event = threading.Event()

    def run(self) -> None:
        """See Thread."""
        began = time.monotonic()
        with grpc.insecure_channel(self._address) as channel:
            stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)
            while not self._stop_event.wait(self._every):
                self._look(stub, time.monotonic() - began)

    def stop(self) -> None:
        """No more looks."""
        self._stop_event.set()
        self.join()

    def _look(self, stub: Any, at: float) -> None:
        samples = self.samples
        engine = next(iter(children(self._front)), 0)
        samples.at.append(at)
        samples.engine_pids.append(engine)
        found = {**_process("front", self._front), **_process("engine", engine)}
        try:
            stats = stub.GetStats(pb.GetStatsRequest(), timeout=_SECONDS)
            found |= {name: float(getattr(stats, name)) for name in GAUGES}
        except grpc.RpcError:
            found |= dict.fromkeys(GAUGES)
        for name, value in found.items():
            samples.values.setdefault(name, []).append(value)


def floors(points: list[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """The lowest point of each of so many equal stretches of x; points are in its order."""
    begin, end = points[0][0], points[-1][0]
    lowest: dict[int, tuple[float, float]] = {}
    for x, y in points:
        stretch = min(int(count * (x - begin) / (end - begin)), count - 1) if end > begin else 0
        if stretch not in lowest or y < lowest[stretch][1]:
            lowest[stretch] = (x, y)
    return [lowest[stretch] for stretch in sorted(lowest)]


def theil_sen(x: list[float], y: list[float]) -> float | None:
    """The median of the slopes of all pairs of points (Theil 1950, Sen 1968): up to 29% of the
    points may be anything. None of fewer than 2."""
    if len(x) < 2:
        return None
    first, second = np.triu_indices(len(x), 1)
    xs, ys = np.asarray(x), np.asarray(y)
    return float(np.median((ys[second] - ys[first]) / (xs[second] - xs[first])))


def _process(name: str, pid: int) -> dict[str, float | None]:
    """Resident MiB, open descriptors and threads of a process; None where there is none."""
    folder = Path("/proc") / str(pid)
    try:
        return {
            f"{name}_mib": int((folder / "statm").read_text().split()[1]) * _PAGE_MIB,
            f"{name}_fds": float(len(list((folder / "fd").iterdir()))),
            f"{name}_threads": float(len(list((folder / "task").iterdir()))),
        }
    except OSError:
        return dict.fromkeys((f"{name}_mib", f"{name}_fds", f"{name}_threads"))
