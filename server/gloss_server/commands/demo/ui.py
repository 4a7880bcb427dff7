"""`gloss demo --ui`: a service of the embedded pair as a child process, and the page beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gloss_server.command_error import CommandError, SourceLost
from gloss_server.commands.ui import UiOptions, run_ui
from gloss_server.settings import ENV_PREFIX
from gloss_server.terminal import say

STOP_SECONDS = 10.0
_SOCKET_NAME = "service.sock"
_MAX_SOCKET_PATH = 107
"""Bytes that Linux takes as a Unix socket's path."""
_COMMAND = (sys.executable, "-m", "gloss_server.command", "serve")


def run_demo_ui(listen: str) -> None:
    """Serve the embedded pair and its page until SIGTERM or Ctrl-C.

    Args:
        listen: where browsers are served.

    Raises:
        CommandError: see `run_ui`.
        SourceLost: the service ended by itself.
    """
    with _private_folder() as folder:
        # A socket of this user alone, whose name is known before the service listens.
        address = f"unix:{folder}/{_SOCKET_NAME}"
        options = UiOptions(addresses=[address], listen=listen)
        run_ui(options, lambda: _service(address, Path(folder) / "service.log"))


@contextmanager
def _private_folder() -> Iterator[str]:
    """A temporary folder in which a socket has a short enough path; /tmp where TMPDIR is long."""
    with tempfile.TemporaryDirectory(prefix="gloss-demo-") as usual:
        if len(os.fsencode(f"{usual}/{_SOCKET_NAME}")) <= _MAX_SOCKET_PATH:
            yield usual
            return
    with tempfile.TemporaryDirectory(prefix="gloss-demo-", dir="/tmp") as short:
        yield short


def check_flags(ui: bool, others: Mapping[str, object]) -> None:
    """Refuse what would be ignored.

    Args:
        ui: whether --ui was given; else --listen was.
        others: what else the command takes, by name; what was not given is false.

    Raises:
        CommandError: as it says.
    """
    given = [name for name, value in others.items() if value]
    if not ui:
        raise CommandError("--listen: got it without --ui, expected both: it is the page's")
    if given:
        raise CommandError(
            f"--ui: got {' and '.join(given)} with it, expected it alone: the page asks for them"
        )


@contextmanager
def _service(address: str, log: Path) -> Iterator[None]:
    """A service that lives as long as the body; its end ends the body."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_COMMAND, "--address", address, "--metrics-address", ""],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            env=environment,
            # A Ctrl-C is the page's, which ends the service after itself.
            start_new_session=True,
        )
    is_wanted = True

    def watch() -> None:
        process.wait()
        if is_wanted:
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        say("The models are loading; the page says when they are ready. Ctrl-C ends both.")
        yield
    finally:
        ended = process.poll()
        is_wanted = False
        _stop(process)
        watcher.join()
    if ended is not None:
        raise SourceLost(f"the service ended with status {ended}: {_last_line(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    """What it said last."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
