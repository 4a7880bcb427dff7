"""The `gloss` command line: its commands, and the exit status and line that each error ends with.

The commands themselves stand in `texts.py`, `files.py`, `server.py` and `local.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gloss_server import __version__
from gloss_server.cli.files import capture, verbalize
from gloss_server.cli.local import demo, doctor, plan
from gloss_server.cli.server import health, serve, token, top, ui
from gloss_server.cli.texts import explain, watch
from gloss_server.command_error import CommandError
from gloss_server.terminal import flush_stdout, print_lines, say

INTERRUPTED = 130
# Of the command line's own parser; typer does not export the class itself.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    # Read when grpc is first imported. By default its core tells stderr of every connection that a
    # server ends, between our one line for an error and the server's JSON lines.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        status = _run_app(arguments)
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        failure = _exit_status(error)
        if failure is None:
            raise
        say(f"error: {_message(error)}")
        return failure
    if status == INTERRUPTED:
        say("error: interrupted")
    return status


def _run_app(arguments: Sequence[str] | None) -> int:
    """Its status, once stdout has all that it wrote.

    Raises:
        OutputError: stdout cannot be written; the parser's own help and version among it.
    """
    try:
        status = app(arguments, prog_name="gloss", standalone_mode=False) or 0
    except OSError:
        # Where stdout failed an empty line fails, too; else it is a defect.
        print_lines([""])
        raise
    flush_stdout()
    return status


def _exit_status(error: Exception) -> int | None:
    """The status an error ends the command with; None for a defect of ours."""
    if isinstance(error, CommandError):
        return error.exit_status
    if isinstance(error, _UsageError):
        return 2
    # What has not been imported has not been raised.
    engine, torch = sys.modules.get("gloss_engine.errors"), sys.modules.get("torch")
    if engine is not None and isinstance(error, engine.GlossError):
        return 2
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return 1
    return None


def _message(error: Exception) -> str:
    format_message = getattr(error, "format_message", None)
    return str(error) if format_message is None else f"{format_message()} (gloss --help)"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gloss {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def gloss(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Explain a language model's activations in words, with the evidence for them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


for _command in (
    explain,
    watch,
    verbalize,
    capture,
    serve,
    health,
    top,
    ui,
    token,
    demo,
    doctor,
    plan,
):
    app.command()(_command)
