"""A run: its stages in order over one directory, each from what the ones before it have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console

from gloss_engine.device_memory import is_out_of_memory
from gloss_training.errors import ConfigError, DeviceFullError
from gloss_training.machine import DTYPES, let_go, prepare
from gloss_training.models.sharding import Ranks
from gloss_training.release.whole_models import require_models
from gloss_training.run.config import RunConfig
from gloss_training.run.context import Context
from gloss_training.run.folder import RunFolder
from gloss_training.stages.data import make_data
from gloss_training.stages.evaluate import make_evaluation
from gloss_training.stages.rl import make_rl
from gloss_training.stages.sft import make_ar, make_av
from gloss_training.stages.target import make_target
from gloss_training.teachers.teacher import Estimate

STAGES: Final[Mapping[str, Callable[[Context], dict[str, Any]]]] = {
    "target": make_target,
    "data": make_data,
    "ar": make_ar,
    "av": make_av,
    "rl": make_rl,
    "evaluate": make_evaluation,
}
"""What makes each stage's files and gives its figures, in order."""
SHARED: Final = ("ar", "av", "rl")
"""The stages that several processes can share."""


class Run:
    """One run: a configuration over a directory.

    Args:
        root: the directory.
        config: its settings.
        console: where progress is drawn.
        resume: whether a stage that was stopped may go on from its newest checkpoint.
        confirm: told what a teacher will take, whether it is asked; by default one that is free.
        ranks: processes that train together; None: this one alone.
        is_dry: only what a teacher will take is wanted: `confirm` is told and declines.

    Raises:
        RunFolderError: the directory holds stages of another configuration.
        ConfigError: a device that is not there.
    """

    def __init__(
        self,
        root: Path,
        config: RunConfig,
        console: Console,
        *,
        resume: bool = False,
        confirm: Callable[[Estimate], bool] = attrgetter("is_free"),
        ranks: Ranks | None = None,
        is_dry: bool = False,
    ) -> None:
        if ranks is None:
            ranks = Ranks(device=prepare(config.device, config.num_threads))
        if ranks.device.type == "cuda":
            # The engine computes on the current one.
            torch.cuda.set_device(ranks.device)
        folder = RunFolder(root, config.plain(), ranks)

        def confirmed(estimate: Estimate) -> bool:
            with folder.waiting():
                return confirm(estimate)

        self.context = Context(
            config=config,
            folder=folder,
            console=console,
            device=ranks.device,
            dtype=DTYPES[config.dtype],
            confirm=confirmed,
            ranks=ranks,
            is_dry=is_dry,
        )
        self.resume = resume

    def stages(self, names: Sequence[str] = tuple(STAGES)) -> dict[str, dict[str, Any]]:
        """Runs what is not finished of some stages, in order; their records.

        Only the tiny world's target is trained here.
        """
        is_made = self.context.config.world is not None
        return {name: self.stage(name) for name in names if is_made or name != "target"}

    def stage(self, name: str) -> dict[str, Any]:
        """Runs one stage unless it is finished; its record.

        Raises:
            RunFolderError: a stage before it is not finished, or its models are gone.
            ConfigError: a stage for one process, started in several.
            DeviceFullError: what the stage needs does not fit the device's memory.
        """
        work, folder = STAGES[name], self.context.folder
        if self.context.ranks.count > 1 and name not in SHARED and not folder.is_finished(name):
            raise ConfigError(
                f"stage {name}: got {self.context.ranks.count} processes, expected one; run "
                f"gloss-train {name} without torchrun"
            )

        def made() -> dict[str, Any]:
            require_models(folder.root, filter(folder.is_finished, STAGES))
            return work(self.context)

        try:
            record = folder.stage(name, made, resume=self.resume)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise DeviceFullError(name, error) from error
            raise
        let_go()
        return record
