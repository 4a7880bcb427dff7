"""Adapters go to peft and come back: same files, same logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from gloss_training.models.lora import LINEAR_LAYERS, Adapters
from gloss_training.release.adapter_files import adapter_tensors, load_adapter, save_adapter
from support.small_pairs import made, random_ids

# peft asks transformers for it under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

TEXT_PATHS = {"qwen3": "model", "gemma3_wrapped": "model.language_model"}


def text_of(model: Any) -> Any:
    return getattr(model.model, "language_model", model.model)


def drawn_adapters(model: Any, num_blocks: int) -> Adapters:
    adapters = Adapters(text_of(model), LINEAR_LAYERS)
    adapters.add("av", rank=3, alpha=5.0, num_blocks=num_blocks, seed=1)
    for parameter in adapters.tensors("av").values():
        torch.nn.init.normal_(parameter, std=0.1)
    return adapters


def write(folder: Path, adapters: Adapters, arch: str) -> None:
    save_adapter(
        folder,
        adapter_tensors(adapters, "av"),
        alpha=5.0,
        text_path=TEXT_PATHS[arch],
        base="some/base",
    )


@pytest.mark.parametrize("arch", TEXT_PATHS)
@pytest.mark.parametrize("num_blocks", (6, 2))
def test_peft_loads_what_is_written(tmp_path: Path, arch: str, num_blocks: int) -> None:
    """Also an AR's, which changes the first blocks alone; a vision tower is left as it is."""
    model = made(arch)
    adapters = drawn_adapters(model, num_blocks)
    write(tmp_path, adapters, arch)
    token_ids = random_ids(2, 9)
    with adapters.use("av"):
        expected = model(token_ids).logits
    loaded = PeftModel.from_pretrained(made(arch), tmp_path)
    assert loaded.get_nb_trainable_parameters()[0] == 0
    num_layers = sum("lora_A" in name for name, _ in loaded.named_parameters())
    assert num_layers == num_blocks * len(LINEAR_LAYERS)
    # peft scales the update before it adds it: float32, once more rounded, in every layer.
    torch.testing.assert_close(loaded(token_ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("targets", (["q_proj", "down_proj"], list(LINEAR_LAYERS)))
def test_what_peft_wrote_is_loaded(tmp_path: Path, targets: list[str]) -> None:
    config = LoraConfig(r=4, lora_alpha=7, target_modules=targets, task_type="CAUSAL_LM")
    theirs = get_peft_model(made("qwen3"), config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    model = made("qwen3")
    adapters = Adapters(text_of(model), LINEAR_LAYERS)
    load_adapter(tmp_path, adapters, "av", num_blocks=6)
    token_ids = random_ids(2, 9)
    with adapters.use("av"):
        got = model(token_ids).logits
    torch.testing.assert_close(got, theirs(token_ids).logits, rtol=1e-4, atol=1e-4)


def test_what_was_written_is_read_to_the_bit_and_learns_on(tmp_path: Path) -> None:
    adapters = drawn_adapters(made("qwen3"), 6)
    write(tmp_path, adapters, "qwen3")
    again = drawn_adapters(made("qwen3"), 6)
    load_adapter(tmp_path, again, "av", num_blocks=6)
    before, after = adapter_tensors(adapters, "av"), adapter_tensors(again, "av")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in again.tensors("av").values())
    assert again.layers["0.mlp.up_proj"].scales["av"] == 5.0 / 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_rslora", True),
        ("use_dora", True),
        ("bias", "all"),
        ("rank_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("peft_type", "IA3"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    adapters = drawn_adapters(made("qwen3"), 6)
    write(tmp_path, adapters, "qwen3")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=f"{key}: got .*, expected"):
        load_adapter(tmp_path, adapters, "av", num_blocks=6)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, drawn_adapters(made("qwen3"), 6), "qwen3")
    other = Adapters(text_of(made("qwen2")), LINEAR_LAYERS)
    with pytest.raises(ValueError, match="another base"):
        load_adapter(tmp_path, other, "av", num_blocks=6)
    same = Adapters(text_of(made("qwen3")), LINEAR_LAYERS)
    with pytest.raises(ValueError, match="first 2 blocks"):
        load_adapter(tmp_path, same, "av", num_blocks=2)
