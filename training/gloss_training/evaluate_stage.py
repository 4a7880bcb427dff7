"""The stage `evaluate`: the pair before and after RL, on held-out rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from gloss_training.context import Context
from gloss_training.disk import writing
from gloss_training.evaluate import evaluate
from gloss_training.model_files import load_language_model
from gloss_training.reconstructor import load_reconstructor
from gloss_training.run_folder import write_json


def make_evaluation(run: Context) -> dict[str, Any]:
    """Explains held-out rows with each pair of the run; the figures of the last one."""
    root = run.folder.root
    pairs = {"sft": root}
    if run.folder.pair != root:
        pairs["rl"] = run.folder.pair
    figures: dict[str, Any] = {}
    for name, pair in pairs.items():
        figures, samples = _evaluated(run, pair)
        write_json(root / "evaluation" / f"{name}.json", figures)
        lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
        path = root / "evaluation" / f"{name}.samples.jsonl"
        with writing(str(path), "The pair is whole."):
            path.write_text("".join(lines), encoding="utf-8")
    return figures


def _evaluated(run: Context, pair: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    evaluation, samples = evaluate(
        run.config.evaluate,
        run.config.seed,
        load_language_model(pair / "av", run.dtype).to(run.device),
        load_reconstructor(pair / "ar", run.dtype).to(run.device),
        AutoTokenizer.from_pretrained(pair / "av", local_files_only=True),
        run.config.prompt,
        run.rows("heldout"),
        run.statistics(),
    )
    return asdict(evaluation), samples
