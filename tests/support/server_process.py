"""`gloss serve` as a process of its own, on ports the system chooses."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.client_calls import ClientCalls, Metadata

_READY = re.compile(r"^gloss ready: (.*)\n", re.MULTILINE)
_COMMAND = (sys.executable, "-m", "gloss_server.command", "serve")


class ServerProcess:
    """A server, started at once.

    Args:
        log: file for its stdout and stderr.
        flags: of `gloss serve`, by name; the ports are chosen by the system unless named.
        settings: further settings, by name; they go through the environment.
        command: starts it, flags are added.
        credentials: of channels to it; None: in the clear.
        metadata: shown by the calls of `stub`.

    Attributes:
        log: as given.
        process: its front.
        calls: what its clients say of theirs.
    """

    def __init__(
        self,
        log: Path,
        flags: dict[str, object] | None = None,
        settings: dict[str, object] | None = None,
        command: tuple[str, ...] = _COMMAND,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
    ) -> None:
        given = {"address": "127.0.0.1:0", "metrics-address": "127.0.0.1:0"} | (flags or {})
        arguments = [item for name, value in given.items() for item in (f"--{name}", str(value))]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GLOSS_")}
        # Servers with another engine are modules of the tests.
        paths = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        for name, value in ({"num_threads": 1} | (settings or {})).items():
            environment[f"GLOSS_{name.upper()}"] = str(value)
        self.log = log
        self.calls = ClientCalls()
        self._credentials, self._metadata = credentials, metadata
        self._lines: list[dict[str, Any]] = []
        self._num_read = 0
        self._reading = threading.Lock()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._channel is not None:
            self._channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait_ready(self, seconds: float = 60) -> ServerProcess:
        """Wait for its ready line."""
        self.wait_for(lambda: _READY.search(self.output()) is not None, seconds)
        return self

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait while the server lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the server ended:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"never held:\n{self.output()[-3000:]}"
            time.sleep(0.01)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log, as far as they are whole."""
        with self._reading:
            with self.log.open("rb") as log:
                log.seek(self._num_read)
                whole, newline, _ = log.read().rpartition(b"\n")
            self._num_read += len(whole) + len(newline)
            new = whole.decode(errors="replace").split("\n")
            self._lines += [json.loads(line) for line in new if line.startswith("{")]
            return list(self._lines)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.lines() if line["event"] == name]

    @property
    def ports(self) -> dict[str, str]:
        """What the ready line says."""
        ready = _READY.search(self.output())
        assert ready is not None, "not ready"
        return dict(fact.split("=", 1) for fact in shlex.split(ready[1]))

    @property
    def address(self) -> str:
        """Where gRPC listens."""
        return self.ports["address"]

    @property
    def channel(self) -> grpc.Channel:
        """One channel for all that want no other."""
        if self._channel is None:
            self._channel = self._open(self.address, (), self._metadata)
        return self._channel

    def open_channel(
        self, options: Sequence[tuple[str, Any]] = (), address: str | None = None
    ) -> grpc.Channel:
        """A channel of a client's own, to be closed by who opens it.

        Args:
            options: gRPC's.
            address: while the ready line is not there yet.
        """
        return self._open(address or self.address, options, ())

    def _open(
        self, address: str, options: Sequence[tuple[str, Any]], metadata: Metadata
    ) -> grpc.Channel:
        if self._credentials is None:
            channel = grpc.insecure_channel(address, options)
        else:
            channel = grpc.secure_channel(address, self._credentials, options)
        return self.calls.recording(channel, metadata)

    @property
    def stub(self) -> gloss_pb2_grpc.GlossServiceStub:
        """The bare stub."""
        return gloss_pb2_grpc.GlossServiceStub(self.channel)

    def stats(self) -> pb.GetStatsResponse:
        """GetStats."""
        stats: pb.GetStatsResponse = self.stub.GetStats(pb.GetStatsRequest(), timeout=10)
        return stats

    def wait_idle(self, seconds: float = 10) -> pb.GetStatsResponse:
        """Wait until nothing is in flight, in the front and in the engine; the figures then."""

        def idle() -> bool:
            now = self.stats()
            busy = now.running + now.waiting + now.waiting_to_score + now.kv_pages_used
            busy += now.reading + now.watching
            # The call that asks is one in flight itself.
            return busy == 0 and now.calls_in_flight == 1

        self.wait_for(idle, seconds)
        return self.stats()

    @property
    def engine_pid(self) -> int:
        """The engine's process."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = [int(word) for word in path.read_text().split()]
        return pid

    def terminate(self, seconds: float = 60) -> int:
        """SIGTERM, and wait; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
