"""The plots of a sweep: latencies against the offered rate, and goodput and refusals against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

_PANELS = (
    ("call", "end to end", "end_to_end"),
    ("first", "time to first token", "first_token"),
    ("gap", "inter-token", None),
    ("refusal", "time to refusal", "refusal"),
)
_COLOURS = {"p50": "#4c78a8", "p95": "#f58518", "p99": "#e45756"}


def plot_latencies(rows: list[dict[str, Any]], objectives: dict[str, float], path: Path) -> None:
    """Rate against p50, p95 and p99 of what a caller waits for, with the objectives."""
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), sharex=True)
    for axes, (name, title, objective) in zip(panels.flat, _PANELS, strict=True):
        for quantile, colour in _COLOURS.items():
            _line(axes, rows, f"{name}_{quantile}", quantile, colour)
        if objective is not None:
            axes.axhline(
                1000 * objectives[objective], color="grey", linestyle="--", label="objective"
            )
        axes.set_title(title)
        axes.set_ylabel("ms")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    for axes in panels[-1]:
        axes.set_xlabel("offered, calls/s")
    _save(figure, path)


def plot_goodput(rows: list[dict[str, Any]], capacity: float, path: Path) -> None:
    """Rate against goodput, and against what becomes of the calls."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 8), sharex=True)
    _line(upper, rows, "goodput", "goodput", _COLOURS["p50"])
    offered = [row["offered"] for row in rows]
    low, high = ([row[name] for row in rows] for name in ("goodput_low", "goodput_high"))
    upper.fill_between(offered, low, high, color=_COLOURS["p50"], alpha=0.2, label="all rounds")
    _line(upper, rows, "offered_explanations", "offered", "grey")
    peak = max(row["goodput"] for row in rows)
    upper.axhline(0.9 * peak, color="grey", linestyle="--", label="90% of the peak")
    upper.axhline(capacity, color="black", linestyle=":", label="closed loop, all slots full")
    upper.set_ylim(0, 1.6 * max(peak, capacity))
    upper.set_ylabel("explanations/s")
    shares = {name: [row[name] for row in rows] for name in ("good", "late", "refused", "expired")}
    lower.stackplot(
        offered,
        *shares.values(),
        labels=list(shares),
        colors=["#4c78a8", "#f2cf5b", "#b8b0ac", "#e45756"],
    )
    lower.set_ylim(0, 1)
    lower.set_ylabel("share of calls")
    lower.set_xlabel("offered, calls/s")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend(loc="upper right")
    _save(figure, path)


def plot_soak(samples: dict[str, list[float | None]], path: Path) -> None:
    """Memory of both processes, and what was in flight, over time."""
    minutes = [seconds / 60 for seconds in samples["at"] if seconds is not None]
    figure, panels = plt.subplots(3, 1, figsize=(8, 9), sharex=True)
    shown = (("front_mib", "front, MiB"), ("engine_mib", "engine, MiB"), ("running", "in flight"))
    for axes, (name, title) in zip(panels, shown, strict=True):
        for column in (name, "waiting") if name == "running" else (name,):
            values = [float("nan") if v is None else v for v in samples.get(column, [])]
            axes.plot(minutes, values, label=column)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
    panels[-1].legend()
    panels[-1].set_xlabel("minutes")
    _save(figure, path)


def _line(axes: Axes, rows: list[dict[str, Any]], column: str, label: str, colour: str) -> None:
    points = [(row["offered"], row[column]) for row in rows if row[column] is not None]
    axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label, color=colour)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
