"""Weights streamed into place from real written checkpoints, and refused from broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gloss_engine.checkpoint import (
    stream_weights,
)
from gloss_engine.errors import CheckpointError
from support.checkpoints import Pair, write_ar, write_target
from support.edits import add_weights, edit_json, edit_weights

Copy = Callable[[Path], Path]


def reference(directory: Path) -> dict[str, torch.Tensor]:
    """The text model's weights as transformers reads them, under canonical names."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    named = {name.replace("language_model.", ""): p for name, p in model.named_parameters()}
    return {
        name: parameter.detach()
        for name, parameter in named.items()
        if "vision" not in name and "projector" not in name
    }


def poisoned(expected: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(p, torch.nan, dtype=dtype) for name, p in expected.items()}


def ar_targets(directory: Path) -> dict[str, torch.Tensor]:
    expected = reference(directory)
    return poisoned(
        {n: p for n, p in expected.items() if n not in ("lm_head.weight", "model.norm.weight")},
        torch.float32,
    )


def load(directory: Path, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stream_weights(directory, targets)
    return targets


@pytest.fixture(scope="session")
def qwen_names(pairs: dict[str, Pair]) -> dict[str, torch.Tensor]:
    return reference(pairs["qwen2"].av)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_arrives(tmp_path: Path, arch: str, sharded: bool, tied: bool) -> None:
    directory = write_target(tmp_path / "m", arch, sharded=sharded, tied=tied)
    assert (len(list(directory.glob("model*.safetensors"))) > 1) is sharded
    expected = reference(directory)
    assert ("lm_head.weight" in expected) is not tied
    got = load(directory, poisoned(expected, torch.float32))
    for name, weight in expected.items():
        assert torch.equal(got[name], weight), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stored_and_wanted_dtypes_may_differ(tmp_path: Path, dtype: torch.dtype) -> None:
    directory = write_target(tmp_path / "m", "qwen3", dtype=torch.bfloat16)
    expected = reference(directory)
    got = load(directory, poisoned(expected, dtype))
    assert all(torch.equal(got[name], weight.to(dtype)) for name, weight in expected.items())


def in_old_layout(name: str) -> str:
    return name


def in_new_layout(name: str) -> str:
    if name.startswith("language_model.model."):
        return name.replace("language_model.model.", "model.language_model.")
    return name.replace("language_model.lm_head", "lm_head").replace("vision", "model.vision", 1)


@pytest.mark.parametrize("rename", [in_old_layout, in_new_layout])
@pytest.mark.parametrize("tied", [False, True])
def test_wrapped_gemma(tmp_path: Path, rename: Callable[[str], str], tied: bool) -> None:
    directory = write_target(tmp_path / "m", "gemma3", wrapped=True, tied=tied)
    path = directory / "model.safetensors"
    stored = {rename(name): tensor for name, tensor in load_file(path).items()}
    save_file(stored, path, metadata={"format": "pt"})
    prefix = "language_model." if rename is in_old_layout else "model.language_model."
    assert any(name.startswith(prefix) for name in stored)
    assert any("vision" in name for name in stored)
    expected = reference(directory)
    assert ("lm_head.weight" in expected) is not tied
    got = load(directory, poisoned(expected, torch.float32))
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())


def test_bare_base_model_names(
    pairs: dict[str, Pair], copy_of: Copy, qwen_names: dict[str, torch.Tensor]
) -> None:
    directory = copy_of(pairs["qwen2"].av)
    path = directory / "model.safetensors"
    save_file({n.removeprefix("model."): t for n, t in load_file(path).items()}, path)
    got = load(directory, poisoned(qwen_names, torch.float32))
    assert all(torch.equal(got[name], weight) for name, weight in qwen_names.items())


def test_views_into_packed_tensors(
    pairs: dict[str, Pair], qwen_names: dict[str, torch.Tensor]
) -> None:
    prefix = "model.layers.2.self_attn."
    parts = [qwen_names[f"{prefix}{name}_proj.weight"] for name in "qkv"]
    packed = torch.full((sum(len(part) for part in parts), 72), torch.nan)
    views = packed.split([len(part) for part in parts])
    targets = poisoned(qwen_names, torch.float32)
    targets.update({f"{prefix}{n}_proj.weight": v for n, v in zip("qkv", views, strict=True)})
    stream_weights(pairs["qwen2"].av, targets)
    assert torch.equal(packed, torch.cat(parts))


def test_parameters_that_require_grad(
    pairs: dict[str, Pair], qwen_names: dict[str, torch.Tensor]
) -> None:
    targets = {n: torch.nn.Parameter(torch.zeros_like(w)) for n, w in qwen_names.items()}
    stream_weights(pairs["qwen2"].av, targets)
    assert all(torch.equal(targets[name], weight) for name, weight in qwen_names.items())


@pytest.mark.parametrize("dummies", [False, True])
def test_an_ar_with_and_without_dummies(tmp_path: Path, arch: str, dummies: bool) -> None:
    directory = write_ar(tmp_path / "m", arch, dummies=dummies)
    path = directory / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) is dummies  # noqa: SIM118
    stored = load_file(path)
    names = {name for name in stored if "layers" in name or "embed" in name}
    got = load(directory, poisoned({name: stored[name] for name in names}, torch.float32))
    assert all(torch.equal(got[name], stored[name]) for name in names)
    assert not any(name.startswith("model.layers.4.") for name in names)


def test_a_truncated_reader_passes_over_deeper_blocks(
    pairs: dict[str, Pair], qwen_names: dict[str, torch.Tensor]
) -> None:
    shallow = {n: w for n, w in qwen_names.items() if "layers.0." in n or "embed" in n}
    got = load(pairs["qwen2"].av, poisoned(shallow, torch.float32))
    assert all(torch.equal(got[name], weight) for name, weight in shallow.items())


def test_blocks_beyond_the_configs_depth_are_refused(pairs: dict[str, Pair], copy_of: Copy) -> None:
    directory = copy_of(pairs["qwen2"].ar)
    targets = ar_targets(directory)
    add_weights(directory, {"model.layers.4.mlp.up_proj.weight": torch.zeros(112, 72)})
    with pytest.raises(CheckpointError, match=r"unexpected tensors model\.layers\.4"):
        stream_weights(directory, targets)


def test_rotary_buffers_are_passed_over(
    pairs: dict[str, Pair], copy_of: Copy, qwen_names: dict[str, torch.Tensor]
) -> None:
    directory = copy_of(pairs["qwen2"].av)
    add_weights(directory, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)})
    load(directory, poisoned(qwen_names, torch.float32))


def break_shape(directory: Path) -> None:
    edit_weights(directory, lambda n, t: t[:-1].clone() if "layers.1.mlp.up" in n else t)


def drop_tensor(directory: Path) -> None:
    edit_weights(directory, lambda n, t: None if "layers.1.mlp.up" in n else t)


def drop_head(directory: Path) -> None:
    edit_weights(directory, lambda n, t: None if n == "lm_head.weight" else t)


def set_nan(directory: Path) -> None:
    edit_weights(
        directory, lambda n, t: t.index_fill(0, torch.tensor(3), torch.nan) if "0.mlp" in n else t
    )


def set_inf(directory: Path) -> None:
    edit_weights(directory, lambda n, t: -torch.inf * t.sign() if "2.input_layer" in n else t)


def add_bias(directory: Path) -> None:
    add_weights(directory, {"model.layers.0.self_attn.o_proj.bias": torch.zeros(72)})


def add_stranger(directory: Path) -> None:
    add_weights(directory, {"model.layers.0.block_sparse_moe.gate.weight": torch.zeros(2, 72)})


def add_double(directory: Path) -> None:
    add_weights(directory, {"language_model.model.norm.weight": torch.ones(72)})


def make_integer(directory: Path) -> None:
    edit_weights(directory, lambda n, t: t.to(torch.int8) if n == "model.norm.weight" else t)


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def corrupt_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"x" * 32
    path.write_bytes(content)


def empty_file(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def pickle_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def adapter_only(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_shape, r"layers\.1\.mlp\.up_proj\.weight: got shape \[111, 72\].*\[112, 72\]"),
        (drop_tensor, r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"),
        (drop_head, r"no tensor for lm_head\.weight"),
        (set_nan, "NaN or Inf"),
        (set_inf, r"layers\.2\.input_layernorm.*NaN or Inf"),
        (add_bias, r"unexpected tensors model\.layers\.0\.self_attn\.o_proj\.bias"),
        (add_stranger, "unexpected tensors .*block_sparse_moe"),
        (add_double, r"two tensors for model\.norm\.weight"),
        (make_integer, r"torch\.int8"),
        (truncate, "complete safetensors file"),
        (corrupt_header, "complete safetensors file"),
        (empty_file, "complete safetensors file"),
        (pickle_only, "pickle"),
        (adapter_only, "adapter"),
        (no_weights, "no weights"),
    ],
)
def test_damage_is_refused(
    pairs: dict[str, Pair],
    copy_of: Copy,
    qwen_names: dict[str, torch.Tensor],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    directory = copy_of(pairs["qwen2"].av)
    damage(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        stream_weights(directory, poisoned(qwen_names, torch.float32))
    assert str(directory) in caught.value.what and caught.value.fix


def test_names_are_checked_before_anything_is_written(
    pairs: dict[str, Pair], copy_of: Copy, qwen_names: dict[str, torch.Tensor]
) -> None:
    directory = copy_of(pairs["qwen2"].av)
    add_bias(directory)
    targets = poisoned(qwen_names, torch.float32)
    with pytest.raises(CheckpointError):
        stream_weights(directory, targets)
    assert all(target.isnan().all() for target in targets.values())


def test_values_beyond_float16_are_refused_for_float16_alone(
    pairs: dict[str, Pair], copy_of: Copy, qwen_names: dict[str, torch.Tensor]
) -> None:
    directory = copy_of(pairs["qwen2"].av)
    edit_weights(directory, lambda n, t: t * 0 + 70000.0 if n == "model.norm.weight" else t)
    with pytest.raises(CheckpointError, match=r"7e\+04.*torch\.float16.*bfloat16"):
        stream_weights(directory, poisoned(qwen_names, torch.float16))
    stream_weights(directory, poisoned(qwen_names, torch.bfloat16))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_target(tmp_path / "sharded", "qwen2", sharded=True)


def edit_index(directory: Path, edit: Callable[[dict[str, str]], Any]) -> None:
    path = directory / "model.safetensors.index.json"
    edit_json(path, lambda index: edit(index["weight_map"]))


def test_missing_shard(sharded: Path, qwen_names: dict[str, torch.Tensor]) -> None:
    shard = max(sharded.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"missing shards.*{shard.name}"):
        stream_weights(sharded, poisoned(qwen_names, torch.float32))


def test_truncated_shard(sharded: Path, qwen_names: dict[str, torch.Tensor]) -> None:
    shard = max(sharded.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=shard.name):
        stream_weights(sharded, poisoned(qwen_names, torch.float32))


def test_index_must_not_lead_out_of_the_directory(
    sharded: Path, qwen_names: dict[str, torch.Tensor]
) -> None:
    outside = sharded.parent / "outside.safetensors"
    min(sharded.glob("model-*.safetensors")).rename(outside)
    edit_index(sharded, lambda weight_map: weight_map.update(x="../outside.safetensors"))
    with pytest.raises(CheckpointError, match=r"missing shards.*\.\./outside"):
        stream_weights(sharded, poisoned(qwen_names, torch.float32))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_broken_index(sharded: Path, qwen_names: dict[str, torch.Tensor], text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        stream_weights(sharded, poisoned(qwen_names, torch.float32))
