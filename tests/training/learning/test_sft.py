"""AR and AV of every family of decoders, in both types, in one pass or several."""

from __future__ import annotations

import gc
import io
import json
import weakref
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from gloss_engine import SamplingParams, VerbalizeRequest, load_engine
from gloss_engine.errors import MemoryTooSmall
from gloss_server.commands.doctor.examination import examine
from gloss_training.machine import DTYPES
from gloss_training.models.reconstructor import load_reconstructor, reconstruct
from gloss_training.run.config import parse_config
from gloss_training.run.context import Context
from gloss_training.run.folder import RunFolder, write_json
from gloss_training.stages import evaluate as evaluate_stage
from gloss_training.stages import sft, sft_samples
from gloss_training.stages.sft import make_ar, make_av
from gloss_training.storage import checkpoints
from support.checkpoints import LAYER_INDEX, write_target
from support.findings import by_name, failures
from support.tokenizers_made import AR_TEMPLATE, AV_TEMPLATE, FAMILIES

KINDS = ("qwen2", "qwen3", "llama3", "gemma3", "gemma3-wrapped")
TEXTS = (
    "The river is wide and the text ends with a verb.",
    "A recipe with flour.",
    "It will rain in the north, which nobody had expected; the next word is a quantity.",
    "Code that computes an area.",
    "A question about a model.",
)
STEPS = {"num_steps": 4, "batch_size": 20, "learning_rate": 2e-3, "num_warmup_steps": 1}


def context(root: Path, target: Path, kind: str, **settings: Any) -> Context:
    """A run whose data stage is finished; its rows come from `lesson_rows`."""
    arch = kind.partition("-")[0]
    stage = {**STEPS, **settings.pop("stage", {})}
    config = parse_config(
        {
            "target": {"path": str(target), "layer_index": LAYER_INDEX},
            "data": {"documents": "texts.jsonl", "min_position": 2},
            "prompt": {
                "injection_char": FAMILIES[arch].marker_char,
                "av_template": AV_TEMPLATE,
                "ar_template": AR_TEMPLATE,
            },
            "device": "cpu",
            "evaluate": {"max_new_tokens": 8},
            "ar": stage,
            "av": stage,
            **settings,
        }
    )
    folder = RunFolder(root, config.plain())
    figures = {"injection_scale": 3.0, "fve_baseline": 0.9, "norm_median": 4.0}
    write_json(root / "stages" / "data.json", figures)
    return Context(
        config=config,
        folder=folder,
        console=Console(quiet=True),
        device=torch.device("cpu"),
        dtype=DTYPES[config.dtype],
        confirm=attrgetter("is_free"),
    )


class Read(SimpleNamespace):
    """Rows as stages read them."""

    def __len__(self) -> int:
        return len(self.texts)


@pytest.fixture(autouse=True)
def lesson_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(run: Context, split: str) -> Any:
        width = run.load_target().config.get_text_config().hidden_size
        drawn = np.random.default_rng(len(split)).normal(size=(20, width))
        texts = tuple(TEXTS[index % len(TEXTS)] for index in range(20))
        activations = torch.from_numpy(drawn.astype(np.float32))
        return Read(activations=activations, explanations=texts, texts=texts)

    monkeypatch.setattr(Context, "rows", rows)


def losses(run: Context, stage: str) -> list[float]:
    lines = (run.folder.root / "logs" / f"{stage}.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_learns_and_leaves_a_pair_that_the_engine_runs(
    kind: str, tmp_path: Path
) -> None:
    arch, _, wrapped = kind.partition("-")
    target = write_target(tmp_path / "target", arch, wrapped=bool(wrapped))
    run = context(tmp_path / "run", target, kind)
    for stage, make in (("ar", make_ar), ("av", make_av)):
        make(run)
        assert min(losses(run, stage)[-2:]) < losses(run, stage)[0]
    pair = tmp_path / "pair"
    pair.mkdir()
    for role in ("av", "ar"):
        (run.folder.root / role).rename(pair / role)
    assert failures(by_name(examine(pair))) == set()
    engine = load_engine(pair / "av", pair / "ar")
    width = run.facts(run.load_target()).d_model
    rows = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
    sampling = SamplingParams(max_new_tokens=4, seed=1)
    made = engine.verbalize(VerbalizeRequest(activations=rows, sampling=sampling))
    assert all(each.error is None and each.cosine is not None for each in made)


def test_bfloat16_learns_in_float32_masters_and_is_saved_as_it_computes(tmp_path: Path) -> None:
    target = write_target(tmp_path / "target", "qwen3")
    run = context(tmp_path / "run", target, "qwen3", dtype="bfloat16", stage={"num_steps": 2})
    make_av(run)
    kept = checkpoints.load(run.folder.checkpoints("av") / "step-00000002")
    masters = checkpoints.part(kept.tensors, "optimizer")
    name = "model.layers.0.self_attn.q_proj.weight"
    master, saved = masters[f"master.{name}"], load_file(run.folder.root / "av/model.safetensors")
    assert master.dtype == torch.float32
    assert not torch.equal(master, master.bfloat16().float())
    assert saved[name].dtype == torch.bfloat16
    assert torch.equal(saved[name], master.bfloat16())
    assert losses(run, "av")[-1] < losses(run, "av")[0]


def test_what_it_says_is_shown_once_and_an_av_without_an_engine_is_made_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryTooSmall("got too little memory")

    target = write_target(tmp_path / "target", "qwen3")
    run = context(tmp_path / "run", target, "qwen3", stage={"num_steps": 2})
    said = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sft_samples, "Explainer", refuse)
        make_av(replace(run, console=Console(file=said)))
    assert "no samples of stage av: got too little memory" in said.getvalue()
    assert (run.folder.root / "av" / "model.safetensors").exists()
    samples = run.folder.root / "samples" / "av.md"
    assert not samples.exists()
    # Goes on from its last checkpoint, as after a kill: first without samples, then with them.
    make_av(run)
    told = samples.read_text()
    assert told.startswith("## Step 2\n") and sum(f"> {text}" in told for text in TEXTS) > 1
    make_av(run)
    assert samples.read_text() == told


def test_what_the_av_was_trained_in_is_gone_before_the_engine_takes_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Python has not looked for circles yet: a full GPU does not make it look."""
    target = write_target(tmp_path / "target", "qwen3")
    run = context(tmp_path / "run", target, "qwen3", stage={"num_steps": 1})
    trained: list[weakref.ref[Any]] = []
    load = sft.load_language_model

    def kept_weakly(*arguments: Any) -> Any:
        model = load(*arguments)
        trained.append(weakref.ref(model.model.layers[0]))
        return model

    def refuse(*_: object, **__: object) -> None:
        assert [block() for block in trained] == [None]
        raise MemoryTooSmall("got too little memory")

    monkeypatch.setattr(sft, "load_language_model", kept_weakly)
    monkeypatch.setattr(sft_samples, "Explainer", refuse)
    gc.disable()
    try:
        make_av(run)
    finally:
        gc.enable()


def test_a_fresh_ar_of_a_run_of_adapters_is_an_adapter_too(tmp_path: Path) -> None:
    """All weights of a model that adapters are trained over find no room, nor are rates theirs."""
    target = write_target(tmp_path / "target", "qwen2")
    run = context(tmp_path / "run", target, "qwen2", stage={"num_steps": 2}, lora={"rank": 2})
    make_ar(run)
    rows = run.rows("ar")
    read = evaluate_stage._fresh(run, "sft")(rows.explanations, rows.activations)
    own, fresh = (
        checkpoints.load(run.folder.checkpoints(stage) / "step-00000002").tensors
        for stage in ("ar", "evaluate/sft")
    )
    assert own.keys() == fresh.keys()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in own.items())
    merged = load_reconstructor(run.folder.root / "ar")
    expected = reconstruct(merged, run.tokenizer(), AR_TEMPLATE, TEXTS)
    torch.testing.assert_close(read(TEXTS), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [make_ar, make_av])
def test_blocks_that_are_computed_again_change_no_bit(make: Any, tmp_path: Path) -> None:
    target = write_target(tmp_path / "target", "gemma3")
    stage = make.__name__.removeprefix("make_")
    logs = []
    for again in (False, True):
        steps = {"num_steps": 2, "gradient_checkpointing": again}
        run = context(tmp_path / str(again), target, "gemma3", stage=steps)
        make(run)
        logs.append((run.folder.root / "logs" / f"{stage}.jsonl").read_bytes())
    assert logs[0] == logs[1]


@pytest.mark.parametrize("make", [make_ar, make_av])
def test_micro_batches_are_the_whole_batch(make: Any, tmp_path: Path) -> None:
    target = write_target(tmp_path / "target", "qwen2")
    stage = make.__name__.removeprefix("make_")
    seen = []
    for size in (20, 7):
        steps = {"num_steps": 2, "micro_batch": size}
        run = context(tmp_path / str(size), target, "qwen2", stage=steps)
        make(run)
        seen.append(losses(run, stage))
    assert seen[0] == pytest.approx(seen[1], rel=2e-5)
