"""The disk that the log goes to is full: calls go on, what is lost is counted, and said later."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.invariants import counted, logged, samples
from support.server_process import ServerProcess
from support.service_calls import verbalize_request

_DISK_BYTES = 1 << 16
_UNSHARE = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
_MOUNT = f'mount -t tmpfs -o size={_DISK_BYTES} tmpfs "$0" && exec "$@" 2> "$0/log"'
_SERVE = (sys.executable, "-m", "gloss_server.command", "serve")
_LOST = "gloss_log_lines_lost_total"


class ServerOnADisk(ServerProcess):
    """A server that logs to a small disk of its own, which nobody else sees."""

    def __init__(self, folder: Path) -> None:
        disk = folder / "disk"
        disk.mkdir()
        super().__init__(
            folder / "stdout", command=(*_UNSHARE, "bash", "-c", _MOUNT, str(disk), *_SERVE)
        )
        # As the process itself sees it.
        self.disk = Path(f"/proc/{self.process.pid}/root{disk}")

    def output(self) -> str:
        """Its ready line, and what has reached the disk."""
        log = self.disk / "log"
        return super().output() + (log.read_text() if log.exists() else "")

    def lines(self) -> list[dict[str, Any]]:
        """The whole ones."""
        found = [line for line in self.output().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in found if line.endswith("}")]

    def num_torn(self) -> int:
        """Lines that the disk had no room for the end of."""
        return len([line for line in self.output().splitlines() if not line.endswith("}")]) - 1

    def num_lost(self) -> int:
        """As /metrics says."""
        (lost,) = [value for name, _, value in samples(self) if name == _LOST]
        return int(lost)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerOnADisk]:
    with ServerOnADisk(tmp_path) as server:
        server.wait_ready()
        yield server


def _fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def test_it_fills_up_and_recovers(server: ServerOnADisk) -> None:
    request = verbalize_request(np.ones((1, 128), np.float32), max_new_tokens=3, seed=1)
    (before,) = server.stub.Verbalize(request, timeout=30).explanations
    server.wait_for(lambda: counted(samples(server)) == logged(server))
    assert server.num_lost() == 0
    filler = server.disk / "filler"
    _fill(filler)
    during = []
    # A page of the disk may have been the log's already: some lines still fit.
    while server.num_lost() < 10:
        during.extend(server.stub.Verbalize(request, timeout=30).explanations)
    assert {tuple(one.token_ids) for one in during} == {tuple(before.token_ids)}
    assert not server.events("log_lines_lost")
    filler.unlink()
    server.stub.Verbalize(request, timeout=30)
    server.wait_for(lambda: bool(server.events("log_lines_lost")))
    server.wait_for(
        lambda: counted(samples(server)).total() == logged(server).total() + server.num_lost()
    )
    # Once, before anything else, and nothing was lost since.
    (told,) = server.events("log_lines_lost")
    assert told["level"] == "warning" and told["count"] == server.num_lost()
    assert server.num_torn() <= 1 and not server.events("defect")
    assert server.terminate() == 0
