"""Entry point of the `gloss` command.

Installed with the base package, whose extras may be missing: so this module imports nothing but
the standard library until it knows that the command can run.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec

_NEEDED = (
    "numpy",
    "typer",
    "rich",
    "pyarrow",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "yaml",
    "grpc",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "pydantic_settings",
    "structlog",
    "uvloop",
)


def main() -> None:
    """Run the command, or say which extra it needs."""
    if os.getpid() == 1:
        _hear_sigterm()
    _open_standard_streams()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"error: gloss needs {', '.join(missing)}: pip install 'gloss-nla[server]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from gloss_server.cli.app import run

    sys.exit(run())


def _hear_sigterm() -> None:
    """Let SIGTERM end a container's first process also before the command handles it itself.

    The kernel gives process 1 no signal that it has no handler for, and imports take half a second.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _open_standard_streams() -> None:
    """Let 0, 1 and 2 lead nowhere where the caller closed them.

    Else the next file or socket would get one of these numbers, and what libraries print would go
    into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number: this one.
            os.open(os.devnull, os.O_RDWR)
    # Closed ones had no stream of Python's either: print to a stderr of None goes to stdout.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
