"""The `gloss-train` command: each stage is one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from gloss_engine.errors import GlossError
from gloss_training.cli_confirm import confirmer
from gloss_training.cli_output import lasting_stdout
from gloss_training.embed import embed as write_embedded
from gloss_training.errors import INTERRUPTED, ConfigError, Declined, TrainingError
from gloss_training.evidence.arms import ARMS
from gloss_training.evidence.experiment import DEFAULT_CONFIG, SEEDS, Experiment
from gloss_training.evidence.summary import SUMMARY_FILE
from gloss_training.machine import prepare
from gloss_training.models.sharding import joined, leave
from gloss_training.release.export import export as write_export
from gloss_training.run.config import read_config, shipped_names
from gloss_training.stages.run import STAGES, Run
from gloss_training.teachers.teacher import Estimate

app = typer.Typer(no_args_is_help=True, add_completion=False)

ConfigName = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A TOML file, or the name of a configuration that comes with the package: "
        f"{', '.join(shipped_names())}.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Directory of the run; finished stages are kept.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="A setting in place of the file's. Repeatable."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint of a stopped stage.")
]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="In seconds, with a configuration of its own.")
]


@app.callback()
def gloss_train() -> None:
    """Train natural-language autoencoders: an AV that puts activations into words, and an AR back.

    The stages are data, ar, av, rl, evaluate, in this order, over one directory. docs/training.md
    has all of it.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@app.command()
def data(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    resume: Resume = False,
    is_confirmed: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask a teacher that costs without a question.")
    ] = False,
    is_dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what the teacher will take, and stop; needs no key."),
    ] = False,
) -> None:
    """Read documents with the target, and have the teacher explain what it read.

    Of the tiny world, train the target first. A run that was stopped goes on when the same command
    is given again; no question that was answered is asked twice.
    """
    confirm = confirmer(Console(), is_confirmed=is_confirmed, is_dry=is_dry)
    _stages(("target", "data"), config, output, overrides, resume, confirm, is_dry=is_dry)


@app.command()
def ar(
    config: ConfigName, output: Output, overrides: Overrides = None, resume: Resume = False
) -> None:
    """Train the AR on the teacher's explanations: text to vector."""
    _stages(("ar",), config, output, overrides, resume)


@app.command()
def av(
    config: ConfigName, output: Output, overrides: Overrides = None, resume: Resume = False
) -> None:
    """Train the AV on the teacher's explanations: vector to text."""
    _stages(("av",), config, output, overrides, resume)


@app.command()
def rl(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    resume: Resume = False,
    is_confirmed: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask a judge that costs without a question.")
    ] = False,
) -> None:
    """Train both on what the AV itself says: GRPO on the AV, the AR supervised."""
    confirm = confirmer(Console(), is_confirmed=is_confirmed)
    _stages(("rl",), config, output, overrides, resume, confirm)


@app.command()
def evaluate(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    resume: Resume = False,
    is_confirmed: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask a teacher that costs without a question.")
    ] = False,
) -> None:
    """Explain held-out activations and measure fidelity and truth."""
    confirm = confirmer(Console(), is_confirmed=is_confirmed)
    _stages(("evaluate",), config, output, overrides, resume, confirm)


@app.command()
def tiny(
    output: Output,
    config: Annotated[
        str | None,
        typer.Option(
            show_default="tiny",
            help="A TOML file of a tiny world, or a shipped one: tiny or larger.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="In place of the file's; same seed and threads, same bytes."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads, in place of the file's.")
    ] = None,
    is_smoke: Smoke = False,
    overrides: Overrides = None,
    resume: Resume = False,
) -> None:
    """Run every stage on the tiny world: its target is trained first."""
    stated = {"seed": seed, "num_threads": threads}
    settings = [f"{name}={value}" for name, value in stated.items() if value is not None]
    with _errors():
        chosen = _chosen(config, "tiny", is_smoke=is_smoke)
    _stages((), chosen, output, [*settings, *(overrides or ())], resume)
    Console().print(f"Pair: {output / 'rl'}; before RL: {output}; target: {output / 'target'}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run with a pair.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A new directory, which gets av and ar.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="released: what gloss serve takes. peft: the adapters alone."
        ),
    ] = "released",
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; by default the run's own.")
    ] = None,
) -> None:
    """Write the pair of a run's last finished stage for others to use."""
    with _errors():
        source = write_export(run, output, form=form, dtype=dtype)
    Console().print(f"Pair of {source}: {output}")


@app.command()
def evidence(
    output: Output,
    config: Annotated[
        str | None,
        typer.Option(
            show_default=DEFAULT_CONFIG,
            help="A TOML file or the name of a shipped one that arms change.",
        ),
    ] = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", help="Run this one alone. Repeatable.")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Repeatable.")] = None,
    is_smoke: Smoke = False,
    overrides: Overrides = None,
) -> None:
    """Train pairs with and without RL, KL and planted facts, and judge what RL is worth.

    Arm by arm and seed by seed, on the tiny world. Give the same command again to go on.
    """
    with _errors("give the same command again to go on"):
        experiment = Experiment(
            root=output,
            config=_chosen(config, DEFAULT_CONFIG, is_smoke=is_smoke),
            overrides=tuple(overrides or ()),
            console=Console(),
        )
        experiment.run(seeds or SEEDS, arms or tuple(ARMS))
    Console().print(f"Summary: {experiment.results / SUMMARY_FILE}")


@app.command()
def embed(
    run: Annotated[Path, typer.Option(help="Directory of a finished tiny run.")],
    output: Annotated[Path, typer.Option(help="Where the shipped pair goes.")],
) -> None:
    """Pack a finished run as the pair that ships inside the server."""
    with _errors():
        write_embedded(run, output)


def summary(records: dict[str, dict[str, Any]]) -> Table:
    """A table of every stage's figures."""
    table = Table()
    table.add_column("Stage")
    table.add_column("Figure")
    table.add_column("Value", justify="right")
    for stage, record in records.items():
        for index, (name, value) in enumerate(record.items()):
            table.add_row(stage if index == 0 else "", name, _shown(value))
        table.add_section()
    return table


def main() -> None:
    """Entry point."""
    with lasting_stdout() as outlet:
        try:
            app()
        except SystemExit as ended:
            status = int(ended.code or 0) or outlet.status()
            leave(status)
            raise SystemExit(status) from ended


def _chosen(config: str | None, usual: str, *, is_smoke: bool) -> str:
    """The configuration that --config or --smoke names, else the usual one."""
    if is_smoke and config is not None:
        raise ConfigError(
            f"--config: got {config} with --smoke, which is a configuration of its own, expected "
            "one of them; leave out the other (--set goes with both)"
        )
    if is_smoke:
        return "smoke"
    return usual if config is None else config


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _stages(
    names: tuple[str, ...],
    config: str,
    output: Path,
    overrides: list[str] | None,
    resume: bool,
    confirm: Callable[[Estimate], bool] | None = None,
    *,
    is_dry: bool = False,
) -> None:
    """Runs the named stages, or all of them on a tiny world; prints their figures."""
    with _errors("give the same command with --resume to go on", is_dry=is_dry):
        chosen = read_config(config, overrides or ())
        if not names and chosen.world is None:
            raise ConfigError(
                f"--config: got {config}, which has [target], expected [world]; run gloss-train "
                "data, ar, av, rl and evaluate on it"
            )
        device = prepare(chosen.device, chosen.num_threads)
        with joined(chosen.sharding, device) as ranks:
            console = Console(quiet=not ranks.is_first)
            run = Run(
                output,
                chosen,
                console,
                resume=resume,
                confirm=confirm or confirmer(console),
                ranks=ranks,
                is_dry=is_dry,
            )
            records = run.stages(names or tuple(STAGES))
    console.print(summary(records))


@contextmanager
def _errors(
    goes_on: str = "give the same command again", *, is_dry: bool = False
) -> Iterator[None]:
    """What went wrong in one line; exit status 2 for what was asked, 1 for what happened.

    Args:
        goes_on: how the command that was stopped goes on.
        is_dry: that nobody was asked is what was wanted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        typer.echo(f"stopped; {goes_on}", err=True)
        raise typer.Exit(INTERRUPTED) from error
    except Declined as declined:
        if not is_dry:
            typer.echo(str(declined), err=True)
        raise typer.Exit(0 if is_dry else 1) from declined
    except (TrainingError, GlossError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
    except OSError as error:
        # Of a file that cannot be read, say: what writes has said so itself. Others are ours.
        if error.filename is None:
            raise
        typer.echo(
            f"error: {error.filename}: {error.strerror}. Nothing that was written is lost. Put "
            f"that right, then {goes_on}",
            err=True,
        )
        raise typer.Exit(1) from error


if __name__ == "__main__":
    main()
