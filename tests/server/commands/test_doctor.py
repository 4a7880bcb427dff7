"""The doctor finds each known trap on a checkpoint broken on purpose, and nothing on a good one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from gloss_server.commands.doctor.examination import Check, examine
from support.checkpoints import Pair, write_ar, write_av, write_target
from support.edits import add_nfc_marker, edit_weights
from support.findings import (
    Edit,
    by_name,
    chat_template,
    config,
    extraction,
    failures,
    sidecar,
    templates,
    tokens,
)


@pytest.fixture
def broken(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path]
) -> Callable[..., dict[str, Check]]:
    """Copies an AV or AR, breaks it, examines it: findings by name."""

    def examine_broken(role: str, *edits: Edit, arch: str = "qwen2") -> dict[str, Check]:
        directory = copy_of(getattr(pairs[arch], role))
        for edit in edits:
            edit(directory)
        return by_name(examine(directory))

    return examine_broken


def test_a_good_pair_passes(pair: Pair) -> None:
    checks = by_name(examine(pair.av.parent))
    assert failures(checks) == set()
    assert {n for n, c in checks.items() if c.status == "warn"} == {"av: fve_baseline"}
    for name in ("av: prompt", "ar: template", "ar: value head", "pair: layer K", "av: weights"):
        assert checks[name].status == "pass"


@pytest.mark.parametrize("training_names", [False, True])
def test_each_part_alone(tmp_path: Path, training_names: bool) -> None:
    ready = extraction(fve_baseline=0.7, norm_median=9.0, min_position=4)
    for role, write in (("av", write_av), ("ar", write_ar)):
        directory = write(tmp_path / role, "llama3", training_names=training_names)
        ready(directory)
        checks = by_name(examine(directory))
        assert {check.status for check in checks.values()} == {"pass"}
        assert checks["sidecar"].got == f"role {role}"


def test_a_target(tmp_path: Path, arch: str) -> None:
    checks = by_name(examine(write_target(tmp_path / "t", arch, sharded=True)))
    assert {check.status for check in checks.values()} == {"pass"}
    assert checks["kind"].got == "target" and "prompt" not in checks


@pytest.mark.parametrize(
    ("edits", "name", "message"),
    [
        ([templates(av="Explain this.")], "prompt", "without a placeholder"),
        ([templates(av="<c>{injection_char}</c> <c>{injection_char}</c>")], "prompt", ""),
        ([tokens(injection_left_neighbor_id=3)], "prompt", "neighbours"),
        ([tokens(injection_right_neighbor_id=3)], "prompt", "neighbours"),
        ([tokens(injection_token_id=149705)], "prompt", "encoded as"),
        ([tokens(injection_char="\u32ff")], "prompt", "encoded as"),
        ([extraction(injection_scale=None)], "sidecar", "injection_scale"),
        ([extraction(injection_scale=-1.0)], "sidecar", "injection_scale"),
        ([extraction(layer_index=2)], "sidecar", "layer K"),
        ([sidecar(lambda m: m.update(d_model=71))], "d_model", "71"),
        ([sidecar(lambda m: m.update(kind="nla_dataset"))], "sidecar", "nla_dataset"),
        ([sidecar(lambda m: m.update(extraction_layer_index=6))], "layer K", "6"),
        ([lambda d: (d / "nla_meta.yaml").write_text("a: [")], "sidecar", "YAML"),
        ([lambda d: (d / "chat_template.jinja").unlink()], "prompt", "chat template"),
        ([config("config.json", model_type="rwkv")], "config", "rwkv"),
        ([config("config.json", num_hidden_layers=7)], "config", "layer"),
        ([config("config.json", num_hidden_layers=5)], "weights", "unexpected"),
        ([config("config.json", vocab_size=422)], "vocabulary", "422"),
        ([config("generation_config.json", eos_token_id="x")], "end of sequence", "'x'"),
        ([lambda d: (d / "tokenizer.json").unlink()], "tokenizer", "no such file"),
        ([lambda d: (d / "tokenizer.json").write_text("{}")], "tokenizer", ""),
        ([lambda d: (d / "config.json").unlink()], "config", "FileNotFoundError"),
    ],
)
def test_traps_of_an_av(
    broken: Callable[..., dict[str, Check]], edits: list[Edit], name: str, message: str
) -> None:
    checks = broken("av", *edits)
    assert name in failures(checks)
    assert message in checks[name].got


def test_a_doubled_marker_is_the_only_failure(broken: Callable[..., dict[str, Check]]) -> None:
    twice = "<concept>{injection_char}</concept> and <concept>{injection_char}</concept>"
    checks = broken("av", templates(av=twice))
    assert failures(checks) == {"prompt"} and "2 matches" in checks["prompt"].got


def test_a_stray_marker_is_warned_of(broken: Callable[..., dict[str, Check]]) -> None:
    stray = "<concept>{injection_char}</concept> and {injection_char} again"
    check = broken("av", templates(av=stray))["injection token"]
    assert check.status == "warn" and check.got == "2 times in the prompt"


@pytest.mark.parametrize("arch", ["llama3", "gemma3"])
def test_doubled_bos(broken: Callable[..., dict[str, Check]], arch: str) -> None:
    av = broken("av", chat_template(lambda text: "{{ bos_token }}" + text), arch=arch)
    assert failures(av) == {"prompt"} and "two BOS" in av["prompt"].got
    bos = "<bos>" if arch == "gemma3" else "<|begin_of_text|>"
    ar = broken("ar", sidecar(lambda m: _prepend(m, bos)), arch=arch)
    assert failures(ar) == {"template"} and "two BOS" in ar["template"].got


def _prepend(meta: dict[str, Any], bos: str) -> None:
    meta["prompt_templates"]["ar"] = bos + meta["prompt_templates"]["ar"]


def test_an_ar_without_bos_though_the_tokenizer_has_one(
    broken: Callable[..., dict[str, Check]],
) -> None:
    checks = broken("ar", config("tokenizer.json", post_processor=None), arch="llama3")
    assert failures(checks) == {"template"}
    assert "BOS" in checks["template"].expected


@pytest.mark.parametrize(
    ("edits", "name", "message"),
    [
        ([sidecar(lambda m: m.update(extraction_layer_index=4))], "layer K", "4"),
        ([sidecar(lambda m: m.update(extraction_layer_index=2))], "layer K", "2"),
        ([sidecar(lambda m: m.update(critic={"num_hidden_layers": 4}))], "sidecar", "layer K"),
        ([lambda d: (d / "value_head.safetensors").unlink()], "value head", "no such file"),
        ([templates(ar="no placeholder")], "template", "0 times"),
        ([templates(ar="{explanation} {explanation}")], "template", "2 times"),
        ([tokens(critic_suffix_ids=[1, 2])], "template", "critic_suffix_ids"),
        ([extraction(mse_scale="x")], "sidecar", "mse_scale"),
    ],
)
def test_traps_of_an_ar(
    broken: Callable[..., dict[str, Check]], edits: list[Edit], name: str, message: str
) -> None:
    checks = broken("ar", *edits)
    assert failures(checks) == {name}
    assert message in checks[name].got


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"weight": torch.full((72, 72), torch.nan)}, "NaN"),
        ({"weight": torch.eye(70)}, "shape"),
        ({"weight": torch.eye(72), "bias": torch.zeros(71)}, "shape"),
        ({"head": torch.eye(72)}, "keys"),
    ],
)
def test_value_heads(
    broken: Callable[..., dict[str, Check]], head: dict[str, torch.Tensor], message: str
) -> None:
    checks = broken("ar", lambda d: save_file(head, d / "value_head.safetensors"))
    assert failures(checks) == {"value head"} and message in checks["value head"].got


def pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def set_nan(directory: Path) -> None:
    edit_weights(directory, lambda n, t: t / 0 if n == "model.layers.3.mlp.up_proj.weight" else t)


@pytest.mark.parametrize("role", ["av", "ar"])
@pytest.mark.parametrize(
    ("edit", "message"), [(pickle_only, "pickled"), (truncate, "model.safe"), (set_nan, "NaN")]
)
def test_weights(
    broken: Callable[..., dict[str, Check]], role: str, edit: Edit, message: str
) -> None:
    checks = broken(role, edit)
    assert failures(checks) == {"weights"} and message in checks["weights"].got


def test_missing_shard(tmp_path: Path) -> None:
    directory = write_av(tmp_path / "av", "qwen2", sharded=True)
    assert failures(by_name(examine(directory))) == set()
    shard = min(directory.glob("model-*.safetensors"))
    shard.unlink()
    checks = by_name(examine(directory))
    assert failures(checks) == {"weights"} and shard.name in checks["weights"].got


def test_a_tokenizer_that_transformers_rebuilds(broken: Callable[..., dict[str, Check]]) -> None:
    def use_char_that_nfc_changes(directory: Path) -> None:
        char, token_id = add_nfc_marker(directory)
        tokens(injection_char=char, injection_token_id=token_id)(directory)

    checks = broken("av", use_char_that_nfc_changes)
    assert {"prompt", "tokenizer as stored"} <= failures(checks)
    assert "Qwen2Tokenizer gives" in checks["tokenizer as stored"].got


def test_a_rebuilt_tokenizer_is_seen_where_the_marker_is_not_hurt(
    broken: Callable[..., dict[str, Check]],
) -> None:
    """NFD in tokenizer.json, NFC in what transformers makes: only the accent's ids change."""
    checks = broken(
        "av",
        config("tokenizer.json", normalizer={"type": "NFD"}),
        sidecar(
            lambda m: m["prompt_templates"].update(av="caf\u00e9 " + m["prompt_templates"]["av"])
        ),
    )
    assert failures(checks) == {"tokenizer as stored"}


@pytest.mark.parametrize(
    ("role", "edits", "name"),
    [
        ("av", [extraction(injection_scale=80000.0)], "injection_scale"),
        ("av", [], "fve_baseline"),
        ("av", [extraction(mse_scale=None)], "mse_scale"),
        ("ar", [extraction(mse_scale=None)], "mse_scale"),
        ("av", [sidecar(lambda m: m.pop("extraction_layer_index"))], "layer K"),
        ("av", [config("generation_config.json", eos_token_id=None)], "end of sequence"),
        ("av", [lambda d: (d / "generation_config.json").unlink()], "end of sequence"),
        ("av", [chat_template(lambda t: "{% set d = strftime_now('%Y') %}" + t)], "chat template"),
    ],
)
def test_warnings(
    broken: Callable[..., dict[str, Check]], role: str, edits: list[Edit], name: str
) -> None:
    checks = broken(role, *edits)
    assert failures(checks) == set()
    assert checks[name].status == "warn" and checks[name].fix
    good = broken(role, extraction(fve_baseline=0.5)) if name == "fve_baseline" else None
    assert good is None or good[name].status == "pass"


@pytest.mark.parametrize(
    ("role", "edits", "name", "message"),
    [
        (
            "av",
            [config("generation_config.json", repetition_penalty=1.05)],
            "generation_config",
            "1.05",
        ),
        ("av", [], "padding side", "left"),
        ("av", [], "norm_median", "none"),
        ("av", [], "min_position", "none"),
        ("av", [extraction(norm_median=130.0)], "norm_median", "130"),
        ("ar", [extraction(mse_scale=2.0)], "mse_scale", "2"),
    ],
)
def test_notes_do_not_fail(
    broken: Callable[..., dict[str, Check]],
    role: str,
    edits: list[Edit],
    name: str,
    message: str,
) -> None:
    checks = broken(role, *edits)
    assert failures(checks) == set()
    assert checks[name].status == "pass" and message in checks[name].got
    assert bool(checks[name].fix) is (message != "130")


def test_gemma_notes(tmp_path: Path) -> None:
    checks = by_name(examine(write_av(tmp_path / "av", "gemma3", wrapped=True)))
    assert failures(checks) == set()
    assert "passed over" in checks["wrapping"].fix
    assert "query_pre_attn_scalar" in checks["attention scale"].fix
    assert checks["attention scale"].got == f"{36**-0.5:.6g}"


@pytest.mark.parametrize("dummies", [False, True])
def test_dummies_of_an_ar(tmp_path: Path, dummies: bool) -> None:
    checks = by_name(examine(write_ar(tmp_path / "ar", "gemma3", dummies=dummies)))
    assert failures(checks) == set()
    assert ("unused tensors" in checks) is dummies
    assert not dummies or checks["unused tensors"].got == "lm_head.weight, model.norm.weight"


def test_a_released_pair_is_recognised(broken: Callable[..., dict[str, Check]]) -> None:
    def pretend(directory: Path) -> None:
        tokens(injection_token_id=149705)(directory)
        sidecar(lambda m: m.update(d_model=3584, extraction_layer_index=20))(directory)
        shape = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28}
        config("config.json", **shape, layer_types=["full_attention"] * 28)(directory)

    checks = broken("av", pretend)
    assert checks["fve_baseline"].status == "pass" and checks["fve_baseline"].got == "0.72"
    assert "Qwen2.5-7B" in checks["fve_baseline"].fix


@pytest.mark.parametrize("content", [None, "file", "folder"])
def test_what_is_no_model(tmp_path: Path, content: str | None) -> None:
    place = tmp_path / "x"
    if content == "file":
        place.write_text("text")
    elif content == "folder":
        place.mkdir()
    assert failures(by_name(examine(place))) == {"directory"}


def test_a_folder_of_empty_parts(tmp_path: Path) -> None:
    for part in ("av", "ar", "target"):
        (tmp_path / part).mkdir()
    found = failures(by_name(examine(tmp_path)))
    assert {"av: sidecar", "ar: config", "target: tokenizer"} <= found


def test_an_ar_that_lost_its_sidecar_is_still_examined_as_one(
    broken: Callable[..., dict[str, Check]],
) -> None:
    checks = broken("ar", lambda d: (d / "nla_meta.yaml").unlink())
    assert failures(checks) == {"sidecar"}


def test_sidecars_written_by_hand(broken: Callable[..., dict[str, Check]]) -> None:
    """An AV's sidecar without optional blocks reads; what it lacks is named check by check."""

    def bare(directory: Path) -> None:
        meta = {"kind": "nla_model", "role": "av", "d_model": 72}
        meta["extraction"] = {"injection_scale": 4}
        (directory / "nla_meta.yaml").write_text(yaml.safe_dump(meta))

    checks = broken("av", bare)
    assert failures(checks) == {"prompt"} and checks["layer K"].status == "warn"
