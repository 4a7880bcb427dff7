"""The `gloss-train` command."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from gloss_training.config import TinyConfig, smoke
from gloss_training.embed import embed as write_embedded
from gloss_training.pipeline import TinyRun

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def gloss_train() -> None:
    """Train natural-language autoencoders."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@app.command()
def tiny(
    output: Annotated[Path, typer.Option(help="Directory of the run; a finished stage is kept.")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed and threads, same bytes.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    smoke_size: Annotated[bool, typer.Option("--smoke", help="A run of seconds.")] = False,
) -> None:
    """Train the tiny world's target, AV and AR, and evaluate the pair on held-out stories."""
    console = Console()
    config = smoke(seed) if smoke_size else TinyConfig(seed=seed)
    config = config.model_copy(update={"num_threads": threads})
    try:
        records = TinyRun(output, config, console).run()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    console.print(summary(records))
    console.print(f"Pair: {output / 'av'} and {output / 'ar'}; target: {output / 'target'}")


@app.command()
def embed(
    run: Annotated[Path, typer.Option(help="Directory of a finished tiny run.")],
    output: Annotated[Path, typer.Option(help="Where the shipped pair goes.")],
) -> None:
    """Pack a finished run as the pair that ships inside the server."""
    try:
        write_embedded(run, output)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def summary(records: dict[str, dict[str, Any]]) -> Table:
    """A table of every stage's figures."""
    table = Table(title="Tiny run")
    table.add_column("Stage")
    table.add_column("Figure")
    table.add_column("Value", justify="right")
    for stage, record in records.items():
        for index, (name, value) in enumerate(record.items()):
            shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
            table.add_row(stage if index == 0 else "", name, shown)
        table.add_section()
    return table


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
