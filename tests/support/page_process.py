"""`gloss ui` as a process of its own, on a port the system chooses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

_READY = re.compile(r"http://[\w.:\[\]]+:\d+")


class PageProcess:
    """A page's server; a context manager, ready inside.

    Args:
        log: file for its stdout and stderr.
        address: of the service, whether that is there or not.
        flags: further ones of `gloss ui`.
        listen: where to listen.

    Attributes:
        process: it.
        origin: of the page.
    """

    def __init__(
        self, log: Path, address: str, *flags: object, listen: str = "127.0.0.1:0"
    ) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GLOSS_")}
        self._log = log
        command = [sys.executable, "-m", "gloss_server.command", "ui", "--address", address]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--listen", listen, *map(str, flags)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.origin = ""

    def __enter__(self) -> PageProcess:
        deadline = time.monotonic() + 60
        while (ready := _READY.search(self.output())) is None:
            assert self.process.poll() is None, f"gloss ui ended:\n{self.output()}"
            assert time.monotonic() < deadline, f"gloss ui is not ready:\n{self.output()}"
            time.sleep(0.02)
        self.origin = ready[0]
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")
