"""The `gloss` command in processes of its own that start fast: for kills, signals and limits.

A server process imports the engine once and forks a child for each run.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_PRELOADED = [
    *(
        "gloss_server.cli.app",
        "gloss_server.sources.local_explainer",
        "gloss_server.commands.verbalize.command",
    ),
    *("gloss_server.files.parquet_file", "gloss_server.commands.capture.command"),
]


def start_gloss(
    arguments: Sequence[object], log: Path, max_file_bytes: int | None = None
) -> ForkServerProcess:
    """Start the command line with its stdout and stderr in `log`.

    Args:
        arguments: without the program's name.
        log: created anew.
        max_file_bytes: no file may grow beyond this (RLIMIT_FSIZE): a full disk.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(
        target=_child, args=([str(argument) for argument in arguments], log, max_file_bytes)
    )
    process.start()
    return process


def wait_until(
    condition: Callable[[], bool], process: ForkServerProcess, seconds: float = 60
) -> None:
    """Wait for a condition while the process lives; it may also hold when the process is gone."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), "the process ended before the condition held"
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.001)


def end(process: ForkServerProcess) -> int:
    """Wait for the end of a process; its exit status, negative for a signal."""
    process.join(60)
    assert process.exitcode is not None, "the process did not end"
    return process.exitcode


def _child(arguments: list[str], log: Path, max_file_bytes: int | None) -> None:
    import torch

    from gloss_server.cli.app import run

    torch.set_num_threads(1)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    os._exit(run(arguments))
