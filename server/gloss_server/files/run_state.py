"""`OUTPUT.run.json`: what a run was asked for, kept beside its output so that it can go on.

A rerun goes on only if input, checkpoints and options are the same; else it is refused with what
differs. Which rows are there is for the output itself to say (`result_file.py`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gloss_server import __version__
from gloss_server.command_error import CommandError
from gloss_server.files.output_file import write_whole

_FORMAT = 1

Option = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What decides the rows of an output.

    Attributes:
        input_sha256: hash of the input file.
        num_rows: rows in it.
        seed: of the draws, drawn once where none was given; None: nothing is drawn.
        options: every other option that changes rows, by its name on the command line.
    """

    input_sha256: str
    num_rows: int
    seed: int | None = None
    options: dict[str, Option]

    def check_same(self, now: RunState, output: Path, seed_given: bool) -> None:
        """Refuse to go on with what another run began.

        Args:
            now: what is asked for now.
            output: for the message.
            seed_given: whether a seed was asked for now; else the first one is kept.

        Raises:
            CommandError: naming everything that differs.
        """
        differences = []
        if self.input_sha256 != now.input_sha256:
            differences.append("the input is another file or was changed")
        if seed_given and self.seed != now.seed:
            differences.append(f"--seed was {self.seed}, now {now.seed}")
        for name in sorted(self.options.keys() | now.options.keys()):
            was, is_now = self.options.get(name), now.options.get(name)
            if was != is_now:
                differences.append(f"{name} was {_shown(was)}, now {_shown(is_now)}")
        if differences:
            raise CommandError(
                f"{output} was begun differently: {'; '.join(differences)}. Give the same input "
                f"and options to continue, name another --output, or remove {output.name} and "
                f"{state_path(output).name} to begin anew"
            )

    def write(self, output: Path) -> None:
        """Write it beside the output, whole or not at all."""
        text = json.dumps({"format": _FORMAT, "gloss": __version__, **asdict(self)}, indent=2)
        write_whole(state_path(output), f"{text}\n")


def state_path(output: Path) -> Path:
    """Where the state of an output's run is kept."""
    return output.with_name(f"{output.name}.run.json")


def read_state(output: Path) -> RunState | None:
    """The state of the run that began an output; None if there is none.

    Raises:
        CommandError: a file that no run wrote, or one of another version's.
    """
    path = state_path(output)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        known = loaded.pop("format") == _FORMAT
        loaded.pop("gloss")
        if known:
            return RunState(**loaded)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = False
    raise CommandError(
        f"{path}: got contents that no run of this version wrote, expected format {_FORMAT}. "
        f"Remove it and {output.name} to begin anew"
    )


def _shown(value: Option) -> str:
    return "not set" if value is None else str(value)
