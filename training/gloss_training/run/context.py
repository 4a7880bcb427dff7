"""What every stage of a run needs: settings, places, and what the stages before it made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from gloss_engine.checkpoint import fingerprint
from gloss_training.dataset.parquet_file import split_file
from gloss_training.dataset.rows import Rows, read_rows
from gloss_training.dataset.sidecar import check_dataset
from gloss_training.dataset.statistics import Statistics
from gloss_training.errors import ConfigError, DatasetError
from gloss_training.learning.progress import Progress, Silence
from gloss_training.models.model_files import load_language_model
from gloss_training.models.sharding import ALONE, Ranks
from gloss_training.release.sidecars import Facts
from gloss_training.run.config import RunConfig
from gloss_training.run.folder import RunFolder
from gloss_training.run.journal import open_journal
from gloss_training.storage import checkpoints
from gloss_training.teachers.teacher import Estimate


@dataclass(frozen=True, kw_only=True)
class Context:
    """One run.

    Attributes:
        config: its settings.
        folder: its directory.
        console: where progress is drawn.
        device, dtype: where and in what AV and AR are computed.
        confirm: told what a teacher will take, whether it is asked.
        ranks: processes that train together; the first one writes.
        is_dry: only what a teacher will take is wanted.
    """

    config: RunConfig
    folder: RunFolder
    console: Console
    device: torch.device
    dtype: torch.dtype
    confirm: Callable[[Estimate], bool]
    ranks: Ranks = ALONE
    is_dry: bool = False

    @property
    def target(self) -> Path:
        """Directory of the model that is explained.

        Raises:
            ConfigError: there is none where [target] says.
            RunFolderError: the tiny world's is not trained yet.
        """
        if self.config.target is None:
            self.folder.record("target")
            return self.folder.target
        path = Path(self.config.target.path)
        if not path.is_dir():
            raise ConfigError(f"target.path: got {path}, expected a model's directory")
        return path

    def load_target(self) -> Any:
        """The model that is explained, float32, on the CPU."""
        return load_language_model(self.target)

    def tokenizer(self) -> Any:
        """The target's."""
        return AutoTokenizer.from_pretrained(self.target, local_files_only=True)

    def rows(self, split: str) -> Rows:
        """One split of the data.

        Raises:
            RunFolderError: stage data is not finished.
            DatasetError: it is of another model, of other prompts, or empty.
        """
        self.folder.record("data")
        path = split_file(self.folder.data, split)
        check_dataset(
            path,
            d_model=AutoConfig.from_pretrained(self.target).get_text_config().hidden_size,
            layer_index=self.config.layer_index,
            min_position=self.config.data.min_position,
            target_fingerprint=fingerprint(self.target),
            prompt=self.config.prompt,
        )
        rows = read_rows(path)
        if not len(rows):
            share = getattr(self.config.data.shares, split)
            raise DatasetError(
                str(path),
                got=f"no rows, with data.shares.{split} = {share:g}",
                expected="one or more",
                fix=f"Give data.shares.{split} more, under another --output.",
            )
        return rows

    def facts(self, target: Any) -> Facts:
        """What the sidecars of the pair say."""
        return Facts(
            d_model=target.config.get_text_config().hidden_size,
            layer_index=self.config.layer_index,
            min_position=self.config.data.min_position,
            statistics=self.statistics(),
            prompt=self.config.prompt,
        )

    def statistics(self) -> Statistics:
        """Of the training activations."""
        record = self.folder.record("data")
        return Statistics(**{name: record[name] for name in Statistics.__dataclass_fields__})

    def journal(self, stage: str, num_steps: int) -> AbstractContextManager[Progress]:
        """The journal of a stage, from where its newest checkpoint is; the first rank's."""
        if not self.ranks.is_first:
            return nullcontext(Silence())
        return open_journal(
            self.folder.root,
            stage,
            num_steps,
            first_step=checkpoints.latest_step(self.folder.checkpoints(stage)),
            console=self.console,
        )
