"""Adapters begin as the base, add what the formula says, merge in float32 and are told apart."""

from typing import Any

import pytest
import torch

from gloss_training.models.lora import LINEAR_LAYERS, Adapters, LoraSettings
from support.small_pairs import ARCHS, made, random_ids


def adapted(arch: str = "qwen3", **options: Any) -> tuple[Any, Adapters]:
    """A model with adapters "one" and "two", whose B are drawn."""
    model = made(arch).to(options.pop("dtype", torch.float32))
    model.requires_grad_(False)
    adapters = Adapters(model.model, LINEAR_LAYERS)
    generator = torch.Generator().manual_seed(3)
    for name, num_blocks in (("one", 6), ("two", 2)):
        adapters.add(name, rank=4, alpha=6.0, num_blocks=num_blocks, seed=1)
        for key, parameter in adapters.tensors(name).items():
            if "lora_B" in key:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(options.get("size", 0.05) * drawn)
    return model, adapters


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_new_adapter_is_the_base_to_the_bit(arch: str, dtype: torch.dtype) -> None:
    model = made(arch).to(dtype)
    token_ids = random_ids(2, 9)
    before = model(token_ids).logits
    text = getattr(model.model, "language_model", model.model)
    adapters = Adapters(text, LINEAR_LAYERS)
    adapters.add("av", rank=4, alpha=8.0, num_blocks=6, seed=0)
    assert len(adapters.layers) == 6 * len(LINEAR_LAYERS)
    with adapters.use("av"):
        assert torch.equal(model(token_ids).logits, before)
    assert torch.equal(model(token_ids).logits, before)


def test_each_adapter_is_its_own_and_ends_with_its_context() -> None:
    model, adapters = adapted()
    token_ids = random_ids(2, 9)
    logits = {}
    for name in ("one", "two", None):
        with adapters.use(name):
            logits[name] = model(token_ids).logits
    with adapters.use("one"), adapters.use("two"), adapters.use("one"):
        assert torch.equal(model(token_ids).logits, logits["one"])
    assert torch.equal(model(token_ids).logits, logits[None])
    assert not torch.allclose(logits["one"], logits["two"], atol=0.1)
    assert not torch.allclose(logits["two"], logits[None], atol=0.1)
    with pytest.raises(AssertionError, match="no adapter three"), adapters.use("three"):
        pass


def test_merged_weights_give_the_adapters_logits() -> None:
    model, adapters = adapted()
    token_ids = random_ids(2, 9)
    with adapters.use("two"):
        expected = model(token_ids).logits
    plain = made("qwen3")
    merged = dict(adapters.merged("two", iter(plain_names(model))))
    plain.load_state_dict(merged, strict=True)
    torch.testing.assert_close(plain(token_ids).logits, expected, rtol=1e-4, atol=1e-4)
    unchanged = made("qwen3").state_dict()
    changed = {name for name, weight in merged.items() if not torch.equal(weight, unchanged[name])}
    assert changed == {
        f"model.layers.{block}.{owner}.{name}.weight"
        for block in range(2)
        for name in LINEAR_LAYERS
        for owner in ("self_attn" if name[0] in "qkvo" else "mlp",)
    }


def plain_names(model: Any) -> Any:
    return ((name, weight) for name, weight in model.named_parameters() if "lora_" not in name)


def test_merging_adds_in_float32() -> None:
    _, adapters = adapted(dtype=torch.bfloat16)
    layer = adapters.layers["1.mlp.up_proj"]
    low, high = layer.lora_a["one"].detach(), layer.lora_b["one"].detach()
    exact = layer.weight.double() + 6.0 / 4 * (high.double() @ low.double())
    merged = layer.merged("one")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), exact, rtol=1e-6, atol=1e-7)
    assert adapters.layers["3.mlp.up_proj"].merged("two").dtype == torch.bfloat16


def test_lost_share_of_the_update() -> None:
    for size, least, most in ((1e-6, 0.95, 1.01), (0.5, 0.0, 0.05)):
        _, adapters = adapted(dtype=torch.bfloat16, size=size)
        assert least <= adapters.lost_share("one") <= most
    _, adapters = adapted()
    assert adapters.lost_share("one") < 1e-4
    adapters.add("new", rank=4, alpha=1.0, num_blocks=6, seed=0)
    assert adapters.lost_share("new") == 0.0


def test_only_the_active_adapter_learns() -> None:
    model, adapters = adapted()
    with adapters.use("two"):
        model(random_ids(2, 9)).logits.square().mean().backward()
    touched = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert touched and all(name.endswith(".two") for name in touched)
    assert len(touched) == len(adapters.tensors("two")) == 2 * 2 * len(LINEAR_LAYERS)


def test_a_kept_adapter_stays_as_it_was() -> None:
    model, adapters = adapted()
    token_ids = random_ids(2, 9)
    with adapters.use("one"):
        before = model(token_ids).logits.detach()
    adapters.keep("one", "reference")
    for parameter in adapters.tensors("one").values():
        parameter.data.add_(0.1)
    with adapters.use("reference"):
        assert torch.equal(model(token_ids).logits, before)
    assert not any(parameter.requires_grad for parameter in adapters.tensors("reference").values())


def test_adapters_are_drawn_by_seed_and_name() -> None:
    def drawn(name: str, seed: int) -> torch.Tensor:
        adapters = Adapters(made("qwen2").model, ("v_proj",))
        adapters.add(name, rank=3, alpha=1.0, num_blocks=1, seed=seed)
        return adapters.tensors(name)["layers.0.self_attn.v_proj.lora_A.weight"].detach()

    assert torch.equal(drawn("av", 0), drawn("av", 0))
    assert not torch.equal(drawn("av", 0), drawn("av", 1))
    assert not torch.equal(drawn("av", 0), drawn("ar", 0))
    assert 0.9 * 72**-0.5 < drawn("av", 0).abs().max() <= 72**-0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": -1}, "lora.rank"),
        ({"alpha": 0.0}, "lora.alpha"),
        ({"target_modules": ("q_proj", "qproj")}, "qproj"),
        ({"target_modules": ()}, "none"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LoraSettings(**values)
