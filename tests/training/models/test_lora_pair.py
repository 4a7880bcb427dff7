"""A pair of adapters over one base is the pair of models that it would be when merged."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_training.models.lora import LoraSettings
from gloss_training.models.lora_pair import AR, AV, REFERENCE, LoraPair
from gloss_training.models.model_files import cast_weights
from support.small_pairs import PROMPT, made, random_ids

LAYER_INDEX = 3
SETTINGS = LoraSettings(rank=4, alpha=6.0)
FAMILIES = ("qwen2", "qwen3", "llama3", "gemma3_wrapped")


def drawn_pair(arch: str = "qwen3", **options: Any) -> LoraPair:
    """A pair in the middle of its training: adapters and value head are drawn."""
    model = cast_weights(made(arch), options.pop("dtype", torch.float32))
    pair = LoraPair(model, PROMPT, LAYER_INDEX, SETTINGS, seed=0, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (*pair.av_parameters(), *pair.ar_parameters()):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return pair


def width_of(pair: LoraPair) -> int:
    return pair.value_head.in_features


def rows_of(pair: LoraPair, count: int = 3) -> Tensor:
    return torch.randn(count, width_of(pair), generator=torch.Generator().manual_seed(2))


def full_model(arch: str, weights: dict[str, Tensor]) -> Any:
    """The model by itself with other weights."""
    model = made(arch)
    text = getattr(model.model, "language_model", model.model)
    inner = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
    missing, unexpected = text.load_state_dict(inner, strict=False)
    assert not unexpected
    assert all(name.startswith(("layers.4", "layers.5", "norm")) for name in missing)
    return model


def av_loss(model: Any, rows: Tensor, responses: Tensor, weights: Tensor) -> Tensor:
    """A loss over the AV's log-probabilities, each row alone, by transformers itself."""
    total = torch.zeros(())
    for row, response, weight in zip(rows, responses, weights, strict=True):
        embed = model.get_input_embeddings()
        prompt = embed(torch.tensor(PROMPT.token_ids)).clone()
        prompt[PROMPT.marker_index] = row
        logits = model(inputs_embeds=torch.cat([prompt, embed(response)])[None]).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = total + (logprobs.gather(-1, response[:, None])[:, 0] * weight).sum()
    return total


def pair_loss(pair: LoraPair, rows: Tensor, responses: Tensor, weights: Tensor) -> Tensor:
    logits = pair.logits(pair.response_states(rows, responses))
    logprobs = logits.log_softmax(-1).gather(-1, responses[..., None])[..., 0]
    return (logprobs * weights).sum()


def close_up_to_scale(got: Tensor, expected: Tensor, message: str) -> None:
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=5e-4, msg=message)


@pytest.mark.parametrize("arch", FAMILIES)
def test_av_is_the_merged_model_forward_and_backward(arch: str) -> None:
    """An adapter's gradients are B^T G and G A^T times alpha / rank, for G of the merged weight."""
    pair = drawn_pair(arch)
    rows, responses = rows_of(pair), random_ids(3, 7)
    weights = torch.randn(3, 7)
    merged = full_model(arch, dict(pair.av_weights()))
    expected, got = (
        av_loss(merged, rows, responses, weights),
        pair_loss(pair, rows, responses, weights),
    )
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-4)
    expected.backward()
    got.backward()
    text = getattr(merged.model, "language_model", merged.model)
    for path, layer in pair.adapters.layers.items():
        gradient = text.layers.get_submodule(path).weight.grad
        low, high, scale = layer.lora_a[AV], layer.lora_b[AV], SETTINGS.alpha / SETTINGS.rank
        close_up_to_scale(low.grad, scale * (high.T @ gradient), f"{path} A")
        close_up_to_scale(high.grad, scale * (gradient @ low.T), f"{path} B")
    assert not any(p.grad is not None for p in pair.ar_parameters())


@pytest.mark.parametrize("arch", FAMILIES)
def test_ar_is_the_merged_truncation_forward_and_backward(arch: str) -> None:
    pair = drawn_pair(arch)
    token_ids, lengths = random_ids(3, 11), torch.tensor([11, 4, 8])
    named = dict(pair.ar_weights())
    head = named.pop("value_head.weight").requires_grad_(True)
    assert not any("layers.4" in name or name == "norm.weight" for name in named)
    merged = full_model(arch, named)
    expected = torch.stack(
        [
            merged(row[None, :length], output_hidden_states=True).hidden_states[4][0, -1] @ head.T
            for row, length in zip(token_ids, lengths, strict=True)
        ]
    )
    got = pair.reconstruct(token_ids, lengths)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=3e-4, atol=3e-4)
    weights = torch.randn(got.shape)
    (got * weights).sum().backward()
    (expected * weights).sum().backward()
    close_up_to_scale(pair.value_head.weight.grad, head.grad, "value head")
    text = getattr(merged.model, "language_model", merged.model)
    for path, layer in pair.adapters.layers.items():
        if AR not in layer.scales:
            assert int(path.split(".")[0]) > LAYER_INDEX
            continue
        gradient = text.layers.get_submodule(path).weight.grad
        scale = SETTINGS.alpha / SETTINGS.rank
        close_up_to_scale(layer.lora_a[AR].grad, scale * (layer.lora_b[AR].T @ gradient), path)
    assert not any(p.grad is not None for p in pair.av_parameters())


def test_a_new_pair_is_the_base_and_its_first_blocks() -> None:
    base = made("qwen3")
    pair = LoraPair(copy.deepcopy(base), PROMPT, LAYER_INDEX, SETTINGS, seed=0)
    rows, responses = rows_of(pair), random_ids(3, 7)
    states = pair.response_states(rows, responses)
    assert torch.equal(states, pair.reference_states(rows, responses))
    token_ids, lengths = random_ids(2, 6), torch.tensor([6, 3])
    last = base(token_ids, output_hidden_states=True).hidden_states[LAYER_INDEX + 1]
    expected = last[torch.arange(2), lengths - 1]
    torch.testing.assert_close(pair.reconstruct(token_ids, lengths), expected, rtol=1e-4, atol=1e-4)


def test_the_reference_is_the_base_until_the_av_is_kept() -> None:
    pair = drawn_pair()
    rows, responses = rows_of(pair), random_ids(3, 7)
    new = LoraPair(made("qwen3"), PROMPT, LAYER_INDEX, SETTINGS, seed=0)
    base = new.response_states(rows, responses)
    assert torch.equal(pair.reference_states(rows, responses), base)
    started = pair.response_states(rows, responses).detach()
    pair.keep_reference()
    with torch.no_grad():
        for parameter in pair.av_parameters():
            parameter.add_(0.05)
    reference = pair.reference_states(rows, responses)
    assert torch.equal(reference, started)
    assert not reference.requires_grad
    assert not torch.allclose(pair.response_states(rows, responses), started, atol=1e-2)


def test_a_block_that_is_run_again_has_the_adapter_of_its_forward_pass() -> None:
    """The backward pass comes when another adapter may be active, or none."""
    gradients = []
    for is_checkpointed, name in ((False, None), (True, None), (True, AR), (True, REFERENCE)):
        pair = drawn_pair(gradient_checkpointing=is_checkpointed)
        pair.keep_reference()
        rows, responses = rows_of(pair), random_ids(3, 7)
        loss = pair_loss(pair, rows, responses, torch.ones(3, 7))
        loss = loss + pair.reconstruct(random_ids(2, 6), torch.tensor([6, 3])).sum()
        with pair.adapters.use(name):
            loss.backward()
        gradients.append([p.grad for p in (*pair.av_parameters(), *pair.ar_parameters())])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_a_base_of_16_bits_has_adapters_and_a_head_of_32() -> None:
    pair = drawn_pair(dtype=torch.bfloat16)
    parameters = (*pair.av_parameters(), *pair.ar_parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    rows, responses = rows_of(pair), random_ids(3, 7)
    states = pair.response_states(rows, responses)
    assert states.dtype == torch.bfloat16
    assert pair.logits(states).dtype == torch.float32
    reconstruction = pair.reconstruct(random_ids(2, 6), torch.tensor([6, 3]))
    assert reconstruction.dtype == torch.float32
    (pair.logits(states).square().mean() + reconstruction.square().mean()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in parameters)
    types = {name: weight.dtype for name, weight in pair.ar_weights()}
    assert types["value_head.weight"] == torch.float32
    assert types["model.layers.0.mlp.up_proj.weight"] == torch.float32, "merged, not yet cast"
    assert types["model.embed_tokens.weight"] == torch.bfloat16
    assert 0 < pair.lost_shares()[AV] < 0.2


def test_weights_are_complete() -> None:
    pair = drawn_pair()
    assert dict(pair.av_weights()).keys() == made("qwen3").state_dict().keys()
    names = set(dict(pair.ar_weights()))
    assert names == {
        name
        for name in made("qwen3").state_dict()
        if name.startswith(("model.embed_tokens", *(f"model.layers.{k}." for k in range(4))))
    } | {"value_head.weight"}
