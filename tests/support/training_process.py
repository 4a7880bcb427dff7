"""The `gloss-train` command in processes of its own that start fast and die when told.

A server process imports torch once and forks a child for each run.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a process kills itself, as `kill -9` would.

    Attributes:
        call: a function of `checkpoints.py` or of the modules that it uses, such as `os.fsync`;
            `step` for the end of a step.
        number: of the call, from 1.
        is_after: once it has returned, rather than before it.
    """

    call: str
    number: int
    is_after: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended: its status, negative for a signal, and all that it printed."""

    status: int
    output: str


def gloss_train(
    arguments: Sequence[object],
    log: Path,
    *,
    death: Death | None = None,
    max_file_bytes: int | None = None,
) -> Ended:
    """Runs the command line to its end.

    Args:
        arguments: without the program's name.
        log: gets stdout and stderr.
        death: when it kills itself.
        max_file_bytes: no file may grow beyond this (RLIMIT_FSIZE): a full disk.
    """
    process = start_gloss_train(arguments, log, death=death, max_file_bytes=max_file_bytes)
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"the process did not end; it said: {log.read_text()}")
    return Ended(status=process.exitcode, output=log.read_text())


def start_gloss_train(
    arguments: Sequence[object],
    log: Path,
    *,
    death: Death | None = None,
    max_file_bytes: int | None = None,
) -> ForkServerProcess:
    """Starts the command line; see `gloss_train`. Its environment is this process's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gloss_training.cli"])
    words = [str(argument) for argument in arguments]
    process = context.Process(
        target=_child, args=(words, dict(os.environ), log, death, max_file_bytes)
    )
    process.start()
    return process


def _child(
    arguments: list[str],
    environment: dict[str, str],
    log: Path,
    death: Death | None,
    max_file_bytes: int | None,
) -> None:
    import torch

    from gloss_training import cli

    torch.set_num_threads(1)
    # The server that forked this process has that of its own start.
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if death is not None:
        _arm(death)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    status = 0
    try:
        cli.app(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    os._exit(status)


def _arm(death: Death) -> None:
    """Lets the call that is named kill the process."""
    from gloss_training.run import journal
    from gloss_training.storage import checkpoints

    places: dict[str, tuple[Any, str]] = {
        "step": (journal.Journal, "step"),
        "save_file": (checkpoints, "save_file"),
        "fsync": (checkpoints.os, "fsync"),
        "rename": (checkpoints.os, "rename"),
        "rmtree": (shutil, "rmtree"),
    }
    owner, name = places[death.call]
    setattr(owner, name, _dying(getattr(owner, name), death))


def _dying(function: Callable[..., Any], death: Death) -> Callable[..., Any]:
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == death.number and not death.is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == death.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call
