"""deploy/ray_serve.yaml as `serve run` starts it, on ports the system chooses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_READY = re.compile(r"pid=(\d+)\)\S* gloss ready: address=(unix:\S+)")


class RayService:
    """Ray on this machine with the application of deploy/ray_serve.yaml, started at once.

    Args:
        directory: for its configuration and its log.
        settings: of every replica's server.

    Attributes:
        address: of Ray's gRPC proxy.
        num_replicas: how many the file asks for.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        config = yaml.safe_load((DEPLOY / "ray_serve.yaml").read_text())
        grpc_port, http_port = _free_ports(2)
        config["grpc_options"]["port"] = grpc_port
        config["http_options"] = {"port": http_port}
        (application,) = config["applications"]
        application["args"] |= settings
        (deployment,) = application["deployments"]
        # The machine may have fewer cores than replicas.
        deployment["ray_actor_options"]["num_cpus"] = 0
        self.num_replicas = deployment["num_replicas"]
        self.address = f"127.0.0.1:{grpc_port}"
        file = directory / "ray_serve.yaml"
        file.write_text(yaml.safe_dump(config))
        self._log = directory / "log"
        # Sockets of Ray and of the replicas lie here, and a socket's path is short.
        self._scratch = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        paths = [str(DEPLOY), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "RAY_TMPDIR": self._scratch,
            "TMPDIR": self._scratch,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
        }
        serve = Path(sys.executable).with_name("serve")
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [serve, "run", file],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> RayService:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def replicas(self) -> dict[int, str]:
        """Address of each living replica's server, by the process of the replica."""
        ready = {int(pid): address for pid, address in _READY.findall(self.output())}
        return {pid: ready[pid] for pid in ready if Path(f"/proc/{pid}").exists()}

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait while it lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"Ray ended:\n{self.output()[-3000:]}"
            assert time.monotonic() < deadline, f"never held:\n{self.output()[-3000:]}"
            time.sleep(0.02)

    def wait_ready(self) -> RayService:
        """Wait until all replicas serve."""
        self.wait_for(lambda: len(self.replicas()) == self.num_replicas, 120)
        return self


def _free_ports(num: int) -> list[int]:
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
