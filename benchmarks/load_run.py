"""One run of Locust against a server: its records, and what the processes took meanwhile."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load_records import LoadRecords, read_records
from server_metrics import Page, read_page
from server_process import cpu_seconds, sleep_until

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
NICENESS = 7
_BEGIN_SECONDS = 60.0
_POLL_SECONDS = 0.05
_END_SECONDS = 30.0
"""Beyond the calls' deadline, for what is in flight at the end of the load."""


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """A load.

    Attributes:
        users: connections; options: of `locustfile.py`, by name.
        warm_seconds, seconds: before the window, and of it.
        deadline: of a call, seconds.
        niceness: by how much it gives way to a server whose cores it shares; what it is late by is
            measured.
    """

    users: int
    warm_seconds: float
    seconds: float
    deadline: float
    niceness: int = NICENESS
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server under load.

    Attributes:
        address: of gRPC; metrics_address: of /metrics, empty: it is not read.
        pids: its processes, by name; none on another machine.
    """

    address: str
    metrics_address: str = ""
    pids: dict[str, int] = field(default_factory=dict)

    def look(self, pids: dict[str, int]) -> tuple[dict[str, float], Page | None]:
        """CPU seconds of processes so far, and the metrics."""
        page = read_page(self.metrics_address) if self.metrics_address else None
        return {name: cpu_seconds(pid) for name, pid in pids.items()}, page


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """What a run saw in its window.

    Attributes:
        records: of all calls; begin, end: of the window, monotonic seconds.
        cpu: shares of a core, by process.
        before, after: the metrics at its ends; None where they are not read.
    """

    records: LoadRecords
    begin: float
    end: float
    cpu: dict[str, float]
    before: Page | None
    after: Page | None

    def grown(self, series: str) -> float | None:
        """By how much a counter of the server grew in the window."""
        if self.before is None or self.after is None:
            return None
        return self.after.value(series) - self.before.value(series)


def run_load(server: Server, plan: LoadPlan) -> LoadRun:
    """Put a load on a server and wait until its last call has ended.

    Raises:
        RuntimeError: Locust does not begin or fails; its output is in the message.
    """
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        path, log = folder / "records.jsonl", folder / "locust.log"
        output = held.enter_context(log.open("wb"))
        process = held.enter_context(
            subprocess.Popen(
                _command(server.address, plan, path),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        )
        held.callback(process.kill)
        began = _wait_begin(process, path, log)
        pids = {"generator": process.pid, **server.pids}
        begin = began + plan.warm_seconds
        end = begin + plan.seconds
        sleep_until(begin)
        cpu_before, before = server.look(pids)
        sleep_until(end)
        cpu_after, after = server.look(pids)
        process.terminate()
        if process.wait(plan.deadline + _END_SECONDS) != 0:
            raise RuntimeError(f"locust ended with status {process.returncode}:\n{_tail(log)}")
        return LoadRun(
            records=read_records(path),
            begin=begin,
            end=end,
            cpu={name: (cpu_after[name] - cpu_before[name]) / plan.seconds for name in pids},
            before=before,
            after=after,
        )


def _command(address: str, plan: LoadPlan, records: Path) -> list[str]:
    options = {
        "host": address,
        "users": plan.users,
        "spawn-rate": plan.users,
        # It is told to end; if nobody is there to tell it, it ends nevertheless.
        "run-time": f"{math.ceil(_BEGIN_SECONDS + plan.warm_seconds + plan.seconds) + 60}s",
        "stop-timeout": math.ceil(plan.deadline) + 1,
        # Refusals are what is looked for, no failure of the run.
        "exit-code-on-error": 0,
        "deadline": plan.deadline,
        "records": records,
        **plan.options,
    }
    command = ["nice", "-n", str(plan.niceness), sys.executable, "-m", "locust"]
    command += ["-f", str(_LOCUSTFILE), "--headless"]
    return [*command, *(f"--{name}={value}" for name, value in options.items())]


def _wait_begin(process: subprocess.Popen[bytes], path: Path, log: Path) -> float:
    """When the load began, monotonic seconds."""
    latest = time.monotonic() + _BEGIN_SECONDS
    while time.monotonic() < latest and process.poll() is None:
        if path.exists() and "\n" in path.read_text():
            return float(read_records(path).run["began"])
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"locust has not begun:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
