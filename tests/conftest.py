"""Checkpoints that many tests read, a test that breaks one copies it first; the command line."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import support.backends  # noqa: F401  (before whatever imports triton)
from gloss_server.cli.app import run
from gloss_server.embedded import embedded_pair
from support.checkpoints import (
    ARCHITECTURES,
    Pair,
    write_ar,
    write_av,
    write_pair,
    write_target,
)
from support.command_runs import Command, Ended
from support.interrupts import heed_interrupts

heed_interrupts()

# One thread: float32 sums keep their order, and test processes do not fight for cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all tests: grpc.aio complains when loops come and go."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """One small pair per architecture. Read only."""
    root = tmp_path_factory.mktemp("pairs")
    return {arch: write_pair(root / arch, arch) for arch in ARCHITECTURES}


@pytest.fixture(scope="session")
def shallow_pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """The same with three blocks, every kind of each architecture among them, and a prompt of a few
    words: for kernels in Triton's interpreter, whose time goes with the number of programs. Read
    only."""
    template = "<concept>{injection_char}</concept> Say what it holds."
    root = tmp_path_factory.mktemp("shallow")
    return {
        arch: Pair(
            av=write_av(root / arch / "av", arch, layer_index=1, num_layers=3, template=template),
            ar=write_ar(root / arch / "ar", arch, layer_index=1),
        )
        for arch in ARCHITECTURES
    }


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small target per architecture, other weights than the pairs'. Read only."""
    root = tmp_path_factory.mktemp("targets")
    return {arch: write_target(root / arch, arch, seed=7) for arch in ARCHITECTURES}


@pytest.fixture(scope="session")
def story_rows() -> np.ndarray:
    """[807, 128] activations of held-out stories."""
    column = pq.read_table(embedded_pair().activations)["activation_vector"]
    return np.stack(column.to_numpy()).astype(np.float32)


@pytest.fixture(params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return str(request.param)


@pytest.fixture
def pair(pairs: dict[str, Pair], arch: str) -> Pair:
    """The read-only pair of the current architecture."""
    return pairs[arch]


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a checkpoint directory so that it can be broken."""

    def copy(directory: Path) -> Path:
        number = len(list(tmp_path.iterdir()))
        target = tmp_path / f"{number}_{directory.parent.name}_{directory.name}"
        shutil.copytree(directory, target)
        return target

    return copy


@pytest.fixture
def gloss(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Ended:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(status=status, stdout=out, stderr=err)

    return call
