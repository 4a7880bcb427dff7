"""A server for a benchmark: its own process, its address, and the CPU time that it takes.

    python benchmarks/server_process.py [--threads N] [--fake STEP_MS NUM_TOKENS]
        [--max-unread-bytes N]

serves the embedded pair, or the fake engine, until SIGTERM. Ports are the system's choice.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

_FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
_READY_SECONDS = 120.0
_STOP_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


class ServerProcess:
    """A running server; a context manager, ready inside.

    Args:
        num_threads: CPU threads of the engine.
        fake: (milliseconds a step, tokens an explanation) of the fake engine; None: embedded pair.
        max_unread_bytes: the setting; None: its default.

    Attributes:
        address, metrics_address: HOST:PORT of gRPC, and of /metrics.
        front_pid, engine_pid: its two processes.
    """

    def __init__(
        self,
        *,
        num_threads: int = 1,
        fake: tuple[float, int] | None = None,
        max_unread_bytes: int | None = None,
    ) -> None:
        self._command = [sys.executable, __file__, "--threads", str(num_threads)]
        if fake is not None:
            self._command += ["--fake", *map(str, fake)]
        if max_unread_bytes is not None:
            self._command += ["--max-unread-bytes", str(max_unread_bytes)]
        self._held = ExitStack()
        self.address = self.metrics_address = ""
        self.front_pid = self.engine_pid = 0

    def __enter__(self) -> ServerProcess:
        with ExitStack() as held:
            log = held.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": self._command[3]},
            )
            held.callback(_stop, process)
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], _READY_SECONDS)
            line = process.stdout.readline().decode() if readable else ""
            if not line.startswith("gloss ready:"):
                log.seek(0)
                raise RuntimeError(f"the server is not ready:\n{log.read().decode()[-4000:]}")
            facts = dict(fact.split("=", 1) for fact in line.split() if "=" in fact)
            self.address, self.metrics_address = facts["address"], facts["metrics"]
            self.front_pid = process.pid
            (self.engine_pid,) = children(process.pid)
            self._held = held.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, user and system, in ticks of 10 ms."""
    # The name, in parentheses, may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def sleep_until(at: float) -> None:
    """Sleep until a moment of the monotonic clock, which all processes of a machine share."""
    time.sleep(max(at - time.monotonic(), 0.0))


def main() -> int:
    """Serve."""
    from gloss_server.front.server import serve
    from gloss_server.link.supervisor import WORKER
    from gloss_server.settings import ServeSettings

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fake", nargs=2, metavar=("STEP_MS", "NUM_TOKENS"))
    parser.add_argument("--max-unread-bytes", type=int)
    arguments = parser.parse_args()
    unread = arguments.max_unread_bytes
    settings = ServeSettings(
        **({} if unread is None else {"max_unread_bytes": unread}),
        address="127.0.0.1:0",
        metrics_address="127.0.0.1:0",
        num_threads=arguments.threads,
        drain_seconds=0.0,
        grace_seconds=2.0,
    )
    worker = WORKER
    if arguments.fake is not None:
        worker = (sys.executable, str(_FAKE_ENGINE), *arguments.fake)
    return serve(settings, worker)


if __name__ == "__main__":
    sys.exit(main())
