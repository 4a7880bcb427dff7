"""Results on disk: one JSON for each arm and seed, there as soon as the arm is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from gloss_training.evidence.arms import ARMS
from gloss_training.run.folder import read_json, write_json

Result = dict[str, Any]
AGAIN: Final = "remove it to have the arm's result made again"


def result_path(folder: Path, arm: str, seed: int) -> Path:
    """Where a result stands."""
    return folder / f"{arm}-seed-{seed}.json"


def write_result(folder: Path, result: Result) -> None:
    """Writes one in one step."""
    write_json(result_path(folder, result["arm"], result["seed"]), result)


def read_results(folder: Path) -> list[Result]:
    """All that are there, by arm and seed."""
    found: list[Result] = []
    for arm in ARMS:
        for path in folder.glob(f"{arm}-seed-*.json"):
            result = read_json(path, AGAIN)
            if result["arm"] == arm:
                found.append(result)
    order = list(ARMS)
    return sorted(found, key=lambda result: (order.index(result["arm"]), result["seed"]))


def of_arm(results: Iterable[Result], arm: str) -> dict[int, dict[str, float]]:
    """Figures of one arm by seed."""
    return {each["seed"]: each["figures"] for each in results if each["arm"] == arm}
