"""A real Prometheus with the rules of deploy/, which scrapes what a test names."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from support.tools import program

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
INTERVAL = "500ms"
_LISTENS = "0A"


class PrometheusProcess:
    """Prometheus with the configuration that is deployed, but for where and how often it scrapes.

    Args:
        directory: for its configuration, its data and its log.
        target: HOST:PORT of a server's metrics.
    """

    def __init__(self, directory: Path, target: str) -> None:
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        config["rule_files"] = [str(CONFIG.parent / "rules" / "*.yml")]
        (job,) = config["scrape_configs"]
        job["scrape_timeout"], job["static_configs"] = INTERVAL, [{"targets": [target]}]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={file}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._port: int | None = None

    def __enter__(self) -> PrometheusProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_ready(self, seconds: float = 30) -> PrometheusProcess:
        """Wait until it answers."""
        self.wait_for(self._answers, seconds)
        return self

    def wait_for(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Wait while it lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"never held:\n{self._log.read_text()[-3000:]}"
            time.sleep(0.1)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An expression's value of now: its samples, or one without labels for a scalar."""
        found = self._get("query", query=expression)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return list(found["result"])

    def value(self, expression: str) -> float:
        """The value of an expression that has one, or 0 where it has none."""
        samples = self.query(expression)
        assert len(samples) < 2, samples
        return float(samples[0]["value"][1]) if samples else 0.0

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their last error and alerts."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {s["metric"]["alertname"] for s in self.query('ALERTS{alertstate="firing"}')}

    def _get(self, path: str, **arguments: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(arguments)}"
        with urlopen(url, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]

    def _answers(self) -> bool:
        self._port = self._port or self._listening()
        if self._port is None:
            return False
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (URLError, OSError):
            return False

    def _listening(self) -> int | None:
        """The port that the system chose; Prometheus' log repeats the 0 it was asked for."""
        process = Path(f"/proc/{self.process.pid}")
        links = [link.readlink().name for link in _links(process / "fd")]
        sockets = {name[8:-1] for name in links if name.startswith("socket:[")}
        for line in (process / "net" / "tcp").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTENS and inode in sockets:
                return int(local.rsplit(":", 1)[1], 16)
        return None


def _links(directory: Path) -> list[Path]:
    return [link for link in directory.iterdir() if link.is_symlink()]
