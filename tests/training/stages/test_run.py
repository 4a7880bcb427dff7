"""A run of seconds through every stage: layout, bytes, what is kept, what is refused."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from gloss_training.cli import app
from gloss_training.errors import ConfigError, DatasetError, Declined, RunFolderError
from gloss_training.evaluation.evaluate import EvaluationTask
from gloss_training.models.prompts import marked_prompt
from gloss_training.models.reconstructor import load_reconstructor, reconstruct
from gloss_training.rl.settings import RewardSettings
from gloss_training.run.config import read_config, shipped_names
from gloss_training.settings import EvaluateSettings
from gloss_training.stages import evaluate as evaluate_stage
from gloss_training.stages import run as run_module
from gloss_training.stages.evaluate import evaluate_pair, make_evaluation
from gloss_training.stages.rl import make_rl
from gloss_training.stages.run import STAGES, Run
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Estimate
from gloss_training.world.settings import WORLD_PROMPT
from support.teacher_server import KEY, completion, teacher_server

QUIET = Console(quiet=True)
SMOKE = read_config("smoke")


def digests(root: Path) -> dict[str, str]:
    """Hash of every weight file, log and sidecar of a run, but of what the steps took."""
    files = [
        path
        for path in root.rglob("*")
        if path.suffix in {".safetensors", ".jsonl", ".yaml"} and ".clock" not in path.name
    ]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    Run(root, SMOKE, QUIET).stages()
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_every_stage_moves_something(finished: Path) -> None:
    """RL too, though the AV has learnt next to nothing: steps without a valid response do not."""
    log = [json.loads(line) for line in (finished / "logs" / "rl.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in log] == [0.0] * SMOKE.rl.num_steps
    assert all(line["av_grad_norm"] > 0 and line["ar_grad_norm"] > 0 for line in log)
    made = digests(finished)
    for role in ("av", "ar"):
        assert made[f"{role}/model.safetensors"] != made[f"rl/{role}/model.safetensors"]


def test_same_seed_same_bytes(finished: Path, tmp_path: Path) -> None:
    Run(tmp_path, SMOKE, QUIET).stages()
    first, second = digests(finished), digests(tmp_path)
    assert sum(name.endswith(".safetensors") for name in first) == 7
    assert first == second


def test_another_seed_gives_other_weights(finished: Path, tmp_path: Path) -> None:
    Run(tmp_path, read_config("smoke", ["seed=1"]), QUIET).stages(("target",))
    name = "target/model.safetensors"
    assert digests(finished)[name] != digests(tmp_path)[name]


def test_finished_stages_are_kept_and_a_lost_one_comes_back_the_same(
    finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in ("av", "rl", "evaluate"):
        (copied / "stages" / f"{stage}.json").unlink()
    (copied / "av" / "model.safetensors").write_bytes(b"cut off")

    def refuse(*_: object) -> None:
        raise AssertionError("a finished stage was done again")

    for name in ("target", "data", "ar"):
        monkeypatch.setitem(cast(dict[str, object], run_module.STAGES), name, refuse)
    records = Run(copied, SMOKE, QUIET).stages()
    assert digests(copied) == digests(finished)
    assert list(records) == list(STAGES)


def test_a_stage_begun_with_other_settings_is_refused_by_name(copied: Path) -> None:
    with pytest.raises(RunFolderError, match=r"stage target .*seed: 0 -> 4"):
        Run(copied, read_config("smoke", ["seed=4"]), QUIET)
    with pytest.raises(RunFolderError, match=r"stage av .*av\.num_steps: 12 -> 7"):
        Run(copied, read_config("smoke", ["av.num_steps=7"]), QUIET)
    changed = read_config("smoke", ["evaluate.num_rows=5"])
    figures = Run(copied, changed, QUIET).stage("evaluate")
    assert (figures["pair"], figures["num_rows"]) == ("rl", 5)


def test_how_fast_and_for_how_much_a_teacher_is_asked_may_change(copied: Path) -> None:
    changed = ["teacher.concurrency=2", "teacher.input_price=3", "data.max_unanswered_share=0.1"]
    Run(copied, read_config("smoke", changed), QUIET)
    with pytest.raises(RunFolderError, match=r"stage data .*teacher\.model:  -> other"):
        Run(copied, read_config("smoke", ["teacher.model=other"]), QUIET)


def test_a_dataset_of_another_target_is_refused(copied: Path) -> None:
    (copied / "stages" / "ar.json").unlink()
    sidecar = copied / "data" / "ar.parquet.nla_meta.yaml"
    contents = yaml.safe_load(sidecar.read_text("utf-8"))
    contents["dataset"]["target_fingerprint"] = "0" * 16
    sidecar.write_text(yaml.safe_dump(contents, allow_unicode=True), "utf-8")
    with pytest.raises(DatasetError, match=r"ar\.parquet.*target_fingerprint: got '0+', expected"):
        Run(copied, SMOKE, QUIET).stage("ar")


def test_a_stage_needs_those_before_it(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="stage target; run gloss-train data on it"):
        Run(tmp_path, SMOKE, QUIET).stage("ar")


def test_checkpoints_are_gone_on_only_when_asked(copied: Path) -> None:
    (copied / "stages" / "ar.json").unlink()
    (copied / "checkpoints" / "ar" / "step-00000005").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="stopped in stage ar.*step-00000005; give --resume"):
        Run(copied, SMOKE, QUIET).stage("ar")


class Circle:
    """As a model is that has been trained: only Python's search for circles finds it."""

    def __init__(self) -> None:
        self.itself = self


def test_models_are_gone_before_others_take_their_room(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Circle]] = []

    def work(*_: object) -> dict[str, float]:
        assert not any(each() for each in held)
        held.append(weakref.ref(Circle()))
        return {}

    monkeypatch.setattr(evaluate_stage, "_evaluate", work)
    unasked = {"evaluate": EvaluateSettings(num_reworded_rows=0)}
    run = Run(copied, SMOKE.model_copy(update=unasked), QUIET)
    gc.disable()
    try:
        make_evaluation(run.context)
        assert len(held) == 2
        (copied / "stages" / "ar.json").unlink()
        monkeypatch.setitem(cast(dict[str, object], run_module.STAGES), "ar", work)
        run.stage("ar")
        assert len(held) == 3 and held[-1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("stage", "fix"),
    [("rl", "rl.micro_batch or rl.vocabulary_chunk lower"), ("evaluate", "num_training_rows = 0")],
)
def test_a_full_device_is_told_with_what_needs_less(
    stage: str, fix: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has 79")

    (copied / "stages" / f"{stage}.json").unlink()
    monkeypatch.setitem(cast(dict[str, object], run_module.STAGES), stage, work)
    ended = CliRunner().invoke(app, [stage, "smoke", "--output", str(copied)])
    assert ended.exit_code == 1
    assert f"stage {stage}: the device's memory is full: CUDA out of memory. " in ended.output
    assert fix in ended.output and "--resume" in ended.output


def test_checkpoints_have_the_released_layout(finished: Path) -> None:
    for role in ("av", "ar"):
        meta = yaml.safe_load((finished / role / "nla_meta.yaml").read_text("utf-8"))
        tokenizer = AutoTokenizer.from_pretrained(finished / role)
        prompt = marked_prompt(tokenizer, WORLD_PROMPT)
        assert meta["prompt_templates"]["av"] == WORLD_PROMPT.av_template
        assert (meta["schema_version"], meta["kind"], meta["role"]) == (2, "nla_model", role)
        assert meta["d_model"] == 32
        assert meta["tokens"] == {
            "injection_char": "㈎",
            "injection_token_id": prompt.marker_id,
            "injection_left_neighbor_id": prompt.left_id,
            "injection_right_neighbor_id": prompt.right_id,
        }
        extraction = meta["extraction"]
        assert extraction["mse_scale"] == pytest.approx(math.sqrt(32))
        assert extraction["layer_index"] == SMOKE.layer_index
        assert extraction["min_position"] == SMOKE.data.min_position
        assert 0 < extraction["fve_baseline"] <= 1
        assert min(extraction["injection_scale"], extraction["norm_median"]) > 0
        assert "{explanation}" in meta["prompt_templates"]["ar"]
    ar = json.loads((finished / "ar" / "config.json").read_text())
    assert (ar["num_hidden_layers"], ar["model_type"]) == (SMOKE.layer_index + 1, "qwen3")
    dataset = yaml.safe_load((finished / "data" / "av.parquet.nla_meta.yaml").read_text())
    assert (dataset["kind"], dataset["extraction"]["d_model"]) == ("nla_dataset", 32)


def test_a_fresh_ar_learns_as_the_stage_does(copied: Path) -> None:
    """From the same texts it is the same AR, to the bit."""
    run = Run(copied, SMOKE, QUIET).context
    rows = run.rows("ar")
    read = evaluate_stage._fresh(run, "sft")(rows.explanations, rows.activations)
    made = load_reconstructor(copied / "ar")
    texts = rows.explanations[:5]
    expected = reconstruct(made, run.tokenizer(), SMOKE.prompt.ar_template, texts)
    assert torch.equal(read(texts), expected)


def test_models_load_by_the_ordinary_client_in_float32(finished: Path) -> None:
    for name in ("target", "av"):
        model = AutoModelForCausalLM.from_pretrained(finished / name)
        assert model.config.model_type == "qwen3"
        assert model.dtype == torch.float32
        assert model.generation_config.repetition_penalty in (None, 1.0)
        assert (finished / name / "generation_config.json").exists()


def test_a_run_leaves_everything_to_look_at(finished: Path) -> None:
    figures = json.loads((finished / "evaluation" / "rl.json").read_text())
    assert {"fve", "fve_shuffled", "fve_fresh_ar", "unparsed_rate"} <= figures.keys()
    assert "claim_precision" in {**figures, **figures["missing"]}
    samples = (finished / "evaluation" / "rl.samples.jsonl").read_text("utf-8").splitlines()
    assert len(samples) == figures["num_rows"] == SMOKE.evaluate.num_rows
    for stage in ("av", "rl"):
        told = (finished / "samples" / f"{stage}.md").read_text("utf-8")
        assert told.startswith("## Step ") and told.count("\n> ") >= 4
    read = {
        " ".join(text.split()) for text in Run(finished, SMOKE, QUIET).context.rows("heldout").texts
    }
    shown = (finished / "samples" / "av.md").read_text("utf-8")
    assert shown.count("## Step") == 1 and f"## Step {SMOKE.av.num_steps}\n" in shown
    assert {line[2:] for line in shown.splitlines() if line.startswith("> ")} <= read
    assert (finished / "evaluation" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for stage, settings in (("ar", SMOKE.ar), ("av", SMOKE.av), ("rl", SMOKE.rl)):
        log = (finished / "logs" / f"{stage}.jsonl").read_text().splitlines()
        assert len(log) == settings.num_steps
        assert [*(finished / "tensorboard" / stage).glob("events*")]
    assert json.loads((finished / "configuration.json").read_text()) == SMOKE.plain()
    assert not [*(finished / "checkpoints").rglob("step-*")]


def test_evaluation_asks_no_teacher_that_costs_before_that_is_confirmed(copied: Path) -> None:
    told: list[Estimate] = []

    def decline(estimate: Estimate) -> bool:
        told.append(estimate)
        return False

    teacher = TeacherSettings(provider="openai", model="m", api_key_env="NONE")
    # Nobody is there: a question would end in another error.
    teacher = replace(teacher, base_url="http://127.0.0.1:9")
    context = Run(copied, SMOKE, QUIET).context
    paid = replace(context, config=SMOKE.model_copy(update={"teacher": teacher}), confirm=decline)
    with pytest.raises(Declined, match="nothing was reworded"):
        make_evaluation(paid)
    # Once for the pairs before and after RL.
    assert [estimate.num_to_ask for estimate in told] == [2 * SMOKE.evaluate.num_reworded_rows]
    with pytest.raises(Declined):
        evaluate_pair(paid, "rl")
    assert told[-1].num_to_ask == SMOKE.evaluate.num_reworded_rows
    assert (copied / "rewordings.jsonl").read_bytes() == b""
    # No more than there are held-out rows.
    every = EvaluateSettings(num_rows=10**6, num_reworded_rows=10**6)
    with pytest.raises(Declined):
        evaluate_pair(
            replace(paid, config=paid.config.model_copy(update={"evaluate": every})), "rl"
        )
    assert told[-1].num_to_ask == len(context.rows("heldout"))
    # A judge is asked about the steps that are left.
    reward = replace(SMOKE.rl, reward=RewardSettings(judge=1.0))
    judged = replace(paid, config=paid.config.model_copy(update={"rl": reward}))
    (copied / "checkpoints" / "rl" / "step-00000001").mkdir(parents=True)
    with pytest.raises(Declined, match="no explanation was judged"):
        make_rl(judged)
    responses = SMOKE.rl.prompts_per_step * SMOKE.rl.samples_per_prompt
    assert told[-1].num_to_ask == (SMOKE.rl.num_steps - 1) * responses


def test_a_judge_of_its_own_is_asked_in_place_of_the_teacher(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The world explains; who judges is behind an API."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shutil.rmtree(copied / "rl")
    with teacher_server(lambda asked: completion("<score>0.5</score>")) as server:
        judge = TeacherSettings(provider="openai", model="of-its-own", base_url=server.openai_url)
        rl = replace(SMOKE.rl, num_steps=1, reward=RewardSettings(judge=1.0))
        config = SMOKE.model_copy(update={"judge": judge, "rl": rl})
        told: list[Estimate] = []
        context = replace(
            Run(copied, SMOKE, QUIET).context,
            config=config,
            confirm=lambda estimate: told.append(estimate) is None,
        )
        make_rl(context)
    assert {asked.body["model"] for asked in server.asked} == {"of-its-own"}
    assert [estimate.teacher for estimate in told] == ["openai of-its-own"]
    assert json.loads((copied / "logs" / "rl.jsonl").read_text())["reward_judge"] == 0.5


def test_only_the_worlds_own_stories_have_a_known_truth(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target may read documents of one's own, whose facts nobody knows."""

    class Seen(Exception):
        pass

    def see(task: EvaluationTask) -> None:
        raise Seen(task.knows_truth)

    monkeypatch.setattr(evaluate_stage, "evaluate", see)
    context = Run(copied, SMOKE, QUIET).context
    unasked = {"evaluate": EvaluateSettings(num_reworded_rows=0)}
    for documents, knows in (("", True), ("texts.jsonl", False)):
        data = replace(SMOKE.data, documents=documents)
        config = SMOKE.model_copy(update={**unasked, "data": data})
        with pytest.raises(Seen, match=str(knows)):
            evaluate_pair(replace(context, config=config), "sft")


def test_a_split_without_rows_is_refused_by_who_reads_it(copied: Path) -> None:
    path = copied / "data" / "rl.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DatasetError, match=r"rl\.parquet: got no rows, with data.shares.rl = "):
        Run(copied, SMOKE, QUIET).context.rows("rl")


@pytest.mark.parametrize(
    ("asked", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1), ("cpu", None)]
)
def test_the_engine_computes_where_the_rest_does(
    asked: str, index: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the current GPU, so that has to be the one that was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[int | None] = []
    # As torch has it: a device without a number is refused.
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda wanted: None)
    context = Run(tmp_path, read_config("smoke", [f"device={asked}"]), QUIET).context
    assert current == ([] if index is None else [index])
    assert context.device.index == index
    with pytest.raises(
        ConfigError, match="device: got 'cuda:2' with 2 GPUs, expected at most cuda:1"
    ):
        Run(tmp_path, read_config("smoke", ["device=cuda:2"]), QUIET)


def test_what_was_not_confirmed_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decline(*_: object) -> None:
        raise Declined("not confirmed: nobody was asked")

    monkeypatch.setattr(Run, "stages", decline)
    for stage in ("data", "rl", "evaluate"):
        result = CliRunner().invoke(app, [stage, "smoke", "--output", str(tmp_path)])
        assert (result.exit_code, result.output) == (1, "not confirmed: nobody was asked\n")
    arguments = ["data", "smoke", "--output", str(tmp_path), "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output) == (0, "")


def test_tiny_has_a_world(tmp_path: Path) -> None:
    arguments = ["tiny", "--output", str(tmp_path / "run"), "--config", "qwen2.5-7b-lora"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "got qwen2.5-7b-lora, which has [target], expected [world]" in result.output
    assert not (tmp_path / "run").exists()


def test_help_names_every_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    output = CliRunner().invoke(app, ["ar", "--help"]).output
    assert all(name in output for name in shipped_names())


def test_command_prints_a_summary_and_refuses_other_settings(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["tiny", "--output", str(finished), "--smoke"])
    assert result.exit_code == 0, result.output
    assert "fve_fresh_ar" in result.output
    result = CliRunner().invoke(app, ["ar", "smoke", "--output", str(finished)])
    assert result.exit_code == 0, result.output
    arguments = ["tiny", "--output", str(finished), "--smoke", "--seed", "9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "seed: 0 -> 9" in result.output
    arguments = ["ar", "smoke", "--output", str(finished), "--set", "ar.batch_sise=9"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "did you mean ar.batch_size?" in result.output


def test_what_a_person_takes_to_answer_is_no_part_of_a_stages_seconds(tmp_path: Path) -> None:
    def confirm(estimate: Estimate) -> bool:
        time.sleep(0.6)
        return True

    run = Run(tmp_path, SMOKE, QUIET, confirm=confirm)
    began = time.monotonic()
    record = run.context.folder.stage(
        "target",
        lambda: {"is_confirmed": run.context.confirm(Estimate(teacher="someone", num_questions=3))},
        resume=False,
    )
    assert record["is_confirmed"]
    assert record["seconds"] < time.monotonic() - began - 0.5
