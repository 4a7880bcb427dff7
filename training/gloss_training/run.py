"""The stages of a run, in order; each reads what the ones before it have written.

What a stage does is its module's: here it gets its inputs, and its files get their places.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from transformers import AutoTokenizer

from gloss_training import checkpoints
from gloss_training.activations import SPLITS, Rows, make_rows, read_rows, write_rows
from gloss_training.dataset.statistics import RunningStatistics, Statistics
from gloss_training.disk import writing
from gloss_training.errors import ConfigError
from gloss_training.evaluate import evaluate
from gloss_training.journal import Journal, open_journal
from gloss_training.machine import DTYPES, prepare
from gloss_training.model_files import load_language_model
from gloss_training.prompts import marked_prompt, stop_ids_of
from gloss_training.reconstructor import from_target, load_reconstructor
from gloss_training.release import (
    SIDECAR_FILE,
    Facts,
    dataset_sidecar,
    save_ar,
    save_av,
    save_target,
    write_sidecar,
)
from gloss_training.run_config import RunConfig
from gloss_training.run_folder import RunFolder, write_json
from gloss_training.seeds import torch_seed
from gloss_training.settings import SftSettings
from gloss_training.sft import Lesson, ar_supervision, av_supervision
from gloss_training.supervised import train
from gloss_training.target import train_target
from gloss_training.tokenizer import build_tokenizer
from gloss_training.verbalizer import Verbalizer

STAGES: Final = ("target", "data", "ar", "av", "evaluate")


class Run:
    """One run: a configuration over a directory.

    Args:
        root: the directory.
        config: its settings.
        console: where progress is drawn.
        resume: whether a stage that was stopped may go on from its newest checkpoint.

    Raises:
        RunFolderError: the directory holds stages of another configuration.
        ConfigError: a device that is not there.
    """

    def __init__(
        self, root: Path, config: RunConfig, console: Console, *, resume: bool = False
    ) -> None:
        self.folder = RunFolder(root, config.plain())
        self.config = config
        self.console = console
        self.resume = resume
        self.device = prepare(config.device, config.num_threads)
        self.dtype = DTYPES[config.dtype]

    def stages(self, names: Sequence[str] = STAGES) -> dict[str, dict[str, Any]]:
        """Runs what is not finished of some stages, in order; their records.

        Only the tiny world's target is trained here.
        """
        is_made = self.config.world is not None
        return {name: self.stage(name) for name in names if is_made or name != "target"}

    def stage(self, name: str) -> dict[str, Any]:
        """Runs one stage unless it is finished; its record.

        Raises:
            RunFolderError: a stage before it is not finished.
        """
        work: dict[str, Callable[[], dict[str, Any]]] = {
            "target": self._target,
            "data": self._data,
            "ar": self._ar,
            "av": self._av,
            "evaluate": self._evaluate,
        }
        return self.folder.stage(name, work[name], resume=self.resume)

    def _target(self) -> dict[str, Any]:
        world = self.config.world
        if world is None:
            raise ConfigError("[target] names the model that is explained; there is none to train")
        tokenizer = build_tokenizer(world.shape.max_length)
        with self._journal("target", world.training) as journal:
            model, figures = train_target(
                world, self.config.seed, tokenizer, journal, self.folder.checkpoints("target")
            )
        save_target(model, tokenizer, self.folder.target)
        return {"parameters": model.num_parameters(), **figures}

    def _data(self) -> dict[str, Any]:
        target, tokenizer = self._load_target()
        self.folder.data.mkdir(exist_ok=True)
        counts: dict[str, Any] = {}
        training = RunningStatistics()
        for split in SPLITS:
            rows = make_rows(self.config, target, tokenizer, split)
            path = self.folder.data / f"{split}.parquet"
            with writing(str(path), "The splits before it are whole."):
                write_rows(path, rows, split, self.config.layer_index, self.config.prompt)
                write_sidecar(
                    self.folder.data / f"{path.name}.{SIDECAR_FILE}",
                    dataset_sidecar(
                        rows.activations.shape[1],
                        self.config.layer_index,
                        self.config.data.min_position,
                    ),
                )
            counts[f"num_{split}_rows"] = len(rows)
            if split != "heldout":
                training.add(rows.activations.numpy())
        return {**counts, **asdict(training.result(self.config.prompt))}

    def _ar(self) -> dict[str, Any]:
        settings = self.config.ar
        target, tokenizer = self._load_target()
        torch_seed(self.config.seed, "ar")
        reconstructor = from_target(
            target, self.config.layer_index, is_checkpointed=settings.gradient_checkpointing
        )
        reconstructor = reconstructor.to(self.device, self.dtype).train()
        lesson = self._lesson("ar", tokenizer)
        weights = dict(reconstructor.named_parameters())
        with self._journal("ar", settings) as journal:
            figures = train(
                ar_supervision(lesson, settings, reconstructor, weights),
                settings,
                journal,
                self.folder.checkpoints("ar"),
            )
        save_ar(reconstructor.eval(), tokenizer, self._facts(target), self.folder.root / "ar")
        return figures

    def _av(self) -> dict[str, Any]:
        settings = self.config.av
        target, tokenizer = self._load_target()
        torch_seed(self.config.seed, "av")
        model = copy.deepcopy(target).to(self.device, self.dtype).train()
        prompt = marked_prompt(tokenizer, self.config.prompt)
        speaker = Verbalizer(model, prompt, is_checkpointed=settings.gradient_checkpointing)
        supervision = av_supervision(
            self._lesson("av", tokenizer),
            settings,
            speaker,
            speaker.weights(),
            injection_scale=self._statistics().injection_scale,
            stop_ids=stop_ids_of(target),
        )
        with self._journal("av", settings) as journal:
            figures = train(supervision, settings, journal, self.folder.checkpoints("av"))
        save_av(model.eval(), tokenizer, self._facts(target), self.folder.root / "av")
        return figures

    def _evaluate(self) -> dict[str, Any]:
        root = self.folder.root
        self.folder.record("av")
        evaluation, samples = evaluate(
            self.config.evaluate,
            self.config.seed,
            load_language_model(root / "av", self.dtype).to(self.device),
            load_reconstructor(root / "ar", self.dtype).to(self.device),
            AutoTokenizer.from_pretrained(root / "av"),
            self.config.prompt,
            read_rows(self.folder.data / "heldout.parquet"),
            self._statistics(),
        )
        figures = asdict(evaluation)
        write_json(root / "evaluation.json", figures)
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        with writing("samples.jsonl", "The pair is whole."):
            (root / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
        return figures

    def _lesson(self, split: str, tokenizer: Any) -> Lesson:
        rows = self._rows(split)
        return Lesson(
            activations=rows.activations,
            explanations=rows.explanations,
            tokenizer=tokenizer,
            prompt=self.config.prompt,
            device=self.device,
            seed=self.config.seed,
        )

    def _rows(self, split: str) -> Rows:
        self.folder.record("data")
        return read_rows(self.folder.data / f"{split}.parquet")

    def _load_target(self) -> tuple[Any, Any]:
        if self.config.target is not None:
            folder = Path(self.config.target.path)
            if not folder.is_dir():
                raise ConfigError(f"target.path: got {folder}, expected a model's directory")
        else:
            folder = self.folder.target
            self.folder.record("target")
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return load_language_model(folder), tokenizer

    def _facts(self, target: Any) -> Facts:
        return Facts(
            d_model=target.config.get_text_config().hidden_size,
            layer_index=self.config.layer_index,
            min_position=self.config.data.min_position,
            statistics=self._statistics(),
            prompt=self.config.prompt,
        )

    def _statistics(self) -> Statistics:
        record = self.folder.record("data")
        return Statistics(**{name: record[name] for name in Statistics.__dataclass_fields__})

    def _journal(self, stage: str, settings: SftSettings) -> AbstractContextManager[Journal]:
        return open_journal(
            self.folder.root,
            stage,
            settings.num_steps,
            first_step=checkpoints.latest_step(self.folder.checkpoints(stage)),
            console=self.console,
        )
