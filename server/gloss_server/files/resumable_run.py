"""What commands whose runs can go on have in common: whose an output is, and what a stop leaves.

`commands/verbalize/command.py` and `commands/capture/command.py` are such commands. A run that is
not new goes on only with the same input and options; one that is new takes an output that is free,
and says so in its state before the first row. Nothing is written before everything has been
checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gloss_server.command_error import CommandError, Interrupted, SourceLost
from gloss_server.files.activation_file import sha256
from gloss_server.files.output_file import output_exists
from gloss_server.files.run_state import RunState, read_state, state_path
from gloss_server.terminal import RunProgress


def hash_input(file: Path, progress: RunProgress) -> str:
    """The input's hash, for the run's state."""
    with progress.stage(f"Hashing {file.name}", file.stat().st_size) as stage:
        return sha256(file, stage.advance)


def begun_state(asked: RunState, output: Path, seed_given: bool = False) -> RunState | None:
    """The state of the run that is to be continued; None: the output is free.

    Args:
        asked: what this run is asked for.
        output: where its rows go.
        seed_given: as in `RunState.check_same`.

    Raises:
        CommandError: an output that was begun differently, or that no run has begun.
    """
    begun = read_state(output)
    if begun is not None:
        begun.check_same(asked, output, seed_given)
    elif output_exists(output):
        raise CommandError(
            f"{output} exists, and without {state_path(output).name} it cannot be continued. Name "
            "another --output, or remove it"
        )
    return begun


def claim(state: RunState, output: Path, holds_rows: bool) -> None:
    """Make a free output this run's own, now that it is locked.

    Raises:
        CommandError: another run was faster.
        OutputError: the state could not be written.
    """
    if holds_rows or state_path(output).exists():
        raise CommandError(f"{output}: another run has just begun it; the same command continues")
    state.write(output)


@contextmanager
def resumable(held: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C, or a source that went away, becomes a line that says what is there and what next.

    Args:
        held: what the output holds, as in "3 of 5 explanations written".
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(f"interrupted with {held()}; the same command continues") from interrupt
    except SourceLost as lost:
        raise SourceLost(f"{lost}. {held()}; the same command continues") from lost
