"""Whether a teacher that costs is asked: what it will take is shown first."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.console import Console

from gloss_training.errors import ConfigError
from gloss_training.teachers.teacher import Estimate


def confirmer(
    console: Console, *, is_confirmed: bool = False, is_dry: bool = False
) -> Callable[[Estimate], bool]:
    """What shows an estimate and says whether to go on.

    Args:
        console: where it is shown.
        is_confirmed: --yes: go on without a question.
        is_dry: --dry-run: show it and do not go on.
    """

    def confirm(estimate: Estimate) -> bool:
        if is_dry or not estimate.is_free:
            for line in estimate.lines():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        if is_dry:
            return False
        if is_confirmed or estimate.is_free:
            return True
        if not sys.stdin.isatty():
            raise ConfigError(
                "nobody is there to confirm this: got no terminal, expected one, or --yes to go "
                "on (--dry-run shows what it will take)"
            )
        # On stderr: a stdout that goes into a file would leave the person waiting for a question.
        return typer.confirm("Ask the teacher?", default=False, err=True)

    return confirm
