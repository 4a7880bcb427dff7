"""A process in namespaces and with a root of its own, as an engine of containers makes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

PACKAGES = Path("/packages")
"""Where this Python's distributions are seen inside."""
BASE = Path(sys.base_prefix)
_LAUNCHER = Path(__file__).with_name("contained.py")
_IS_ROOT = os.geteuid() == 0


@dataclass(frozen=True, kw_only=True)
class ContainerSpec:
    """How a container is run.

    Attributes:
        root: its root directory.
        environment: all its variables.
        uid: of its processes; None: root's. Without root's rights outside it stays who it is,
            which is nobody of importance.
        directory: it starts in.
        writable: whether its root may be written to.
    """

    root: Path
    environment: dict[str, str]
    uid: int | None = None
    directory: str = "/"
    writable: bool = False


class Container:
    """One of them, started at once; its first process is the command itself.

    Args:
        spec: how it is run.
        command: what it runs.
        log: file for its stdout and stderr.
    """

    def __init__(self, spec: ContainerSpec, command: list[str], log: Path) -> None:
        self._spec, self._log = spec, log
        told = {
            "root": str(spec.root),
            "mounts": _mounts(),
            "writable": spec.writable,
            "uid": spec.uid if _IS_ROOT else None,
            "directory": spec.directory,
            "environment": spec.environment,
            "command": command,
        }
        namespaces = ["--mount", "--pid", "--net", "--ipc", "--fork"]
        if not _IS_ROOT:
            namespaces += ["--user", "--map-root-user"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["unshare", *namespaces, sys.executable, "-I", str(_LAUNCHER), json.dumps(told)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            # With the first process all others of its namespace end.
            self.signal(signal.SIGKILL)
        self.process.wait()

    @property
    def pid(self) -> int:
        """Of its first process, as the host counts."""
        outer = self.process.pid
        (pid,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        return int(pid)

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait while it lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the container ended:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"never held:\n{self.output()[-3000:]}"
            time.sleep(0.02)

    def wait(self, seconds: float) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send its first process a signal."""
        os.kill(self.pid, number)

    def execute(self, command: list[str], seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command beside the first process, as `docker exec` and a health check do."""
        flags = ["--mount", "--pid", "--net", "--ipc", "--root", "--wd=/tmp"]
        if not _IS_ROOT:
            flags += ["--user", "--preserve-credentials"]
        elif self._spec.uid is not None:
            flags += [f"--setuid={self._spec.uid}", f"--setgid={self._spec.uid}"]
        found = _on_path(command[0], self._spec)
        return subprocess.run(
            ["nsenter", f"--target={self.pid}", *flags, found, *command[1:]],
            env=self._spec.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
        )


def _on_path(program: str, spec: ContainerSpec) -> str:
    """nsenter looks a command up on the PATH of before."""
    for directory in spec.environment["PATH"].split(":"):
        if (spec.root / f"{directory}/{program}".lstrip("/")).exists():
            return f"{directory}/{program}"
    return program


def _mounts() -> list[tuple[str, str]]:
    packages = Path(str(distribution("pip").locate_file("")))
    mounts = [("/usr", "usr"), (str(packages), str(PACKAGES).lstrip("/"))]
    mounts += [(f"/{n}", n) for n in ("bin", "sbin", "lib", "lib64") if _is_directory(f"/{n}")]
    if not BASE.is_relative_to("/usr"):
        mounts.append((str(BASE), str(BASE).lstrip("/")))
    return mounts


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
