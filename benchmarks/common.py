"""What every benchmark needs: the machine in words, repeated timings, results with provenance."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "triton", "transformers", "numpy", "grpcio", "protobuf", "uvloop", "locust")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Repeated timings of one thing, seconds."""

    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the runs."""
        return statistics.median(self.runs)

    def per_second(self, count: int) -> float:
        """`count` things at the median."""
        return count / self.median


def alternate(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Time contenders in turn, A B A B ..., so that a drift of the machine meets all alike.

    Each runs once unmeasured first.
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(runs=tuple(runs)) for name, runs in seconds.items()}


def machine() -> dict[str, Any]:
    """The machine, the versions and the commit, for a result to name; the commit and whether the
    tree was clean are None where there is no repository, as in a copy on another machine.
    """
    commit = _git("rev-parse", "--short", "HEAD") or None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **_gpu(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": commit,
        "clean": not _git("status", "--porcelain", "--untracked-files=no") if commit else None,
        "load_average": round(os.getloadavg()[0], 2),
    }


def write_result(
    name: str,
    command: str,
    rows: list[dict[str, Any]],
    path: Path | None = None,
    ran_on: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write rows and provenance to `path`, or to results/NAME.json.

    Args:
        ran_on: what `machine` said before the run, of one that writes more than once or that loads
            the machine; None: asks.
        facts: of all rows together, such as settings.
    """
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"command": command, "machine": ran_on or machine(), **(facts or {}), "rows": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def quantile(values: Iterable[float], share: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows as an aligned text table."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max([len(c), *(len(line[i]) for line in cells)]) for i, c in enumerate(columns)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(columns, widths, strict=True))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return str(value)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _gpu() -> dict[str, str]:
    """The GPU and its driver; nothing where there is none."""
    if not torch.cuda.is_available():
        return {}
    query = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": query.splitlines()[0] if query else "unknown",
        "cuda": str(torch.version.cuda),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    return _output("git", *arguments)


def _output(*command: str) -> str:
    """What a command prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
