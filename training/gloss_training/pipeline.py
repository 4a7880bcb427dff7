"""The tiny run from nothing to an evaluated pair: target, data, AR, AV, evaluation.

Each stage reads the files of the ones before it, so a run can stop and go on between any two.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.activations import SPLITS, make_rows, read_rows, write_rows
from gloss_training.config import TinyConfig
from gloss_training.evaluate import evaluate
from gloss_training.journal import open_journal
from gloss_training.reconstructor import load_reconstructor
from gloss_training.release import (
    SIDECAR_FILE,
    Statistics,
    dataset_sidecar,
    measure,
    save_ar,
    save_language_model,
    sidecar,
    write_sidecar,
)
from gloss_training.sft import train_ar, train_av
from gloss_training.stages import RunFolder, write_json
from gloss_training.target import train_target
from gloss_training.tokenizer import build_tokenizer

STAGES: Final = ("target", "data", "ar", "av", "evaluate")


class TinyRun:
    """The stages of one run, in order, over one directory."""

    def __init__(self, root: Path, config: TinyConfig, console: Console) -> None:
        self.folder = RunFolder(root, config)
        self.config = config
        self.console = console

    def run(self) -> dict[str, dict[str, Any]]:
        """Runs what is not finished; returns every stage's record."""
        torch.set_num_threads(self.config.num_threads)
        torch.use_deterministic_algorithms(True)
        work = {
            "target": self._target,
            "data": self._data,
            "ar": self._ar,
            "av": self._av,
            "evaluate": self._evaluate,
        }
        return {stage: self.folder.stage(stage, work[stage]) for stage in STAGES}

    def _target(self) -> dict[str, Any]:
        tokenizer = build_tokenizer(self.config.model.max_length)
        with self._journal("target", self.config.target.num_steps) as journal:
            model, figures = train_target(self.config, tokenizer, journal)
        save_language_model(model, tokenizer, self.folder.root / "target")
        return {"parameters": model.num_parameters(), **figures}

    def _data(self) -> dict[str, Any]:
        target, tokenizer = self._load_target()
        folder = self.folder.root / "data"
        folder.mkdir(exist_ok=True)
        counts: dict[str, Any] = {}
        training: list[torch.Tensor] = []
        for split in SPLITS:
            rows = make_rows(self.config, target, tokenizer, split)
            path = folder / f"{split}.parquet"
            write_rows(path, rows, split, self.config.model.layer_index)
            write_sidecar(folder / f"{path.name}.{SIDECAR_FILE}", dataset_sidecar(self.config))
            counts[f"num_{split}_rows"] = len(rows)
            if split != "heldout":
                training.append(rows.activations)
        statistics = measure(self.config, torch.cat(training))
        return {**counts, **asdict(statistics)}

    def _ar(self) -> dict[str, Any]:
        target, tokenizer = self._load_target()
        rows = read_rows(self.folder.root / "data" / "ar.parquet")
        with self._journal("ar", self.config.ar.num_steps) as journal:
            reconstructor, figures = train_ar(self.config, target, tokenizer, rows, journal)
        folder = self.folder.root / "ar"
        save_ar(reconstructor, tokenizer, folder)
        write_sidecar(
            folder / SIDECAR_FILE, sidecar("ar", self.config, self._statistics(), tokenizer)
        )
        return figures

    def _av(self) -> dict[str, Any]:
        target, tokenizer = self._load_target()
        rows = read_rows(self.folder.root / "data" / "av.parquet")
        statistics = self._statistics()
        with self._journal("av", self.config.av.num_steps) as journal:
            scale = statistics.injection_scale
            model, figures = train_av(self.config, target, tokenizer, rows, scale, journal)
        folder = self.folder.root / "av"
        save_language_model(model, tokenizer, folder)
        write_sidecar(folder / SIDECAR_FILE, sidecar("av", self.config, statistics, tokenizer))
        return figures

    def _evaluate(self) -> dict[str, Any]:
        root = self.folder.root
        evaluation, samples = evaluate(
            self.config,
            Qwen3ForCausalLM.from_pretrained(root / "av").eval(),
            load_reconstructor(root / "ar"),
            AutoTokenizer.from_pretrained(root / "av"),
            read_rows(root / "data" / "heldout.parquet"),
            self._statistics(),
        )
        figures = asdict(evaluation)
        write_json(root / "evaluation.json", figures)
        with (root / "samples.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(s, ensure_ascii=False) + "\n" for s in samples)
        return figures

    def _load_target(self) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
        folder = self.folder.root / "target"
        model = Qwen3ForCausalLM.from_pretrained(folder).eval()
        return model, AutoTokenizer.from_pretrained(folder)

    def _statistics(self) -> Statistics:
        record = self.folder.record("data")
        assert record is not None, "stages run in order"
        return Statistics(**{name: record[name] for name in Statistics.__dataclass_fields__})

    def _journal(self, stage: str, num_steps: int) -> Any:
        return open_journal(self.folder.logs, stage, num_steps, self.console)
