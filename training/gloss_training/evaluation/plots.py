"""Plots as PNG: how RL went, step by step, and what FVE costs in truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from gloss_training.storage.disk import writing
from gloss_training.storage.step_lines import step_of

CURVES: Final[Mapping[str, str]] = {
    "reward": "reward",
    "fve": "FVE of the rollouts",
    "kl": "KL to the SFT model, nats a token",
    "k3": "k3, engine against trainer, nats a token",
    "response_tokens": "tokens of a response",
    "failure_rate": "share never closed",
}
"""Figures of an RL step that are drawn, each with its title."""
_COLOURS: Final = (
    *("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2"),
    *("#9d755d", "#bab0ac", "#72b7b2", "#eeca3b"),
)
_MARKS: Final = "osD^vPX*<>"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One evaluated pair.

    Attributes:
        arm: what was done.
        fve, claim_precision: its figures.
    """

    arm: str
    fve: float
    claim_precision: float


def curves(log: Path) -> list[dict[str, float]]:
    """What is drawn of each step of an RL log, to five digits; nothing where there is no log."""
    if not log.exists():
        return []
    steps = [step_of(log, line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "step": step["step"],
            **{name: float(f"{step[name]:.5g}") for name in CURVES if name in step},
        }
        for step in steps
    ]


def plot_training(runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """The curves of RL runs by name, one panel a figure.

    Args:
        runs: steps of each run, as its log has them.
        path: of the PNG.
    """
    figure = Figure(figsize=(11, 9), layout="constrained")
    panels = figure.subplots(3, 2, sharex=True)
    for axes, (name, title) in zip(panels.flat, CURVES.items(), strict=True):
        for index, (run, steps) in enumerate(runs.items()):
            points = [(step["step"], step[name]) for step in steps if name in step]
            if points:
                axes.plot(*zip(*points, strict=True), label=run, color=_colour(index), lw=1.2)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    # A run may lack a figure, so the names are those of all panels.
    named = {line.get_label(): line for axes in panels.flat for line in axes.lines}
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
    _save(figure, path)


def plot_truth(points: Sequence[Point], floor: float, path: Path) -> None:
    """FVE against claim precision, an arm a colour, a seed a mark.

    Args:
        points: evaluated pairs.
        floor: least claim precision that is accepted.
        path: of the PNG.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for index, arm in enumerate(dict.fromkeys(point.arm for point in points)):
        of_arm = [point for point in points if point.arm == arm]
        axes.scatter(
            [point.fve for point in of_arm],
            [point.claim_precision for point in of_arm],
            label=arm,
            color=_colour(index),
            marker=_MARKS[index % len(_MARKS)],
            s=60,
        )
    axes.axhline(floor, color="grey", linestyle="--", label=f"floor {floor:g}")
    axes.set_xlabel("FVE, held out")
    axes.set_ylabel("claim precision, held out")
    axes.set_ylim(min([0.5, *(p.claim_precision for p in points)]) - 0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    _save(figure, path)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _save(figure: Figure, path: Path) -> None:
    with writing(str(path), "The figures are whole; only the plot is not."):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date and a version, equal figures give equal bytes.
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
