"""A pair, activations and terminals, for tests of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from support.checkpoints import Pair
from support.command_runs import Command, Ended
from support.screen import Screen


@pytest.fixture
def screen() -> Iterator[Callable[..., Screen]]:
    """Starts commands on terminals."""
    opened = []

    def make(*arguments: str) -> Screen:
        opened.append(Screen(*arguments))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture(scope="session")
def small_pair(pairs: dict[str, Pair]) -> Pair:
    """One architecture is enough where only files and options are tested. Read only."""
    return pairs["qwen2"]


@pytest.fixture(scope="session")
def small_target(targets: dict[str, Path]) -> Path:
    """A target of the small pair's architecture. Read only."""
    return targets["qwen2"]


@pytest.fixture
def verbalize(gloss: Command, small_pair: Pair) -> Command:
    """`gloss verbalize FILE --local` with the small pair and few tokens, seed 7 unless given."""

    def call(file: Path, output: Path, *arguments: object, seed: int | None = 7) -> Ended:
        seeds = [] if seed is None else ["--seed", seed]
        return gloss(
            *("verbalize", file, "--local", "--av", small_pair.av, "--ar", small_pair.ar),
            *("--max-new-tokens", 6, "--output", output, *seeds, *arguments),
        )

    return call


@pytest.fixture
def capture(gloss: Command, small_target: Path) -> Command:
    """`gloss capture` at block 2 of the small target, or of another."""

    def call(file: Path, output: object, *arguments: object, target: Path | None = None) -> Ended:
        return gloss(
            *("capture", "--target", target or small_target, "--layer", 2),
            *("--input", file, "--output", output, *arguments),
        )

    return call


@pytest.fixture(scope="session")
def activations() -> np.ndarray:
    """[40, 72] float32, multiples of 1/8 that fit every float type; rows 5 and 35 are bad."""
    rows = np.random.default_rng(3).integers(-16, 17, (40, 72)).astype(np.float32) / 8
    rows[5] = 0
    rows[35, 71] = np.nan
    return rows


@pytest.fixture(scope="session")
def npy(activations: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The activations as a file. Read only."""
    path = tmp_path_factory.mktemp("activations") / "rows.npy"
    np.save(path, activations)
    return path
