"""Blocks run one by one over a shared prefix give what transformers gives row by row."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gloss_training.models.decoder import Decoder
from support.models_made import make_config, make_model
from support.small_pairs import ARCHS, PROMPT, made, random_ids


def unshared_states(model: Any, row: Tensor, response: Tensor) -> Tensor:
    """[d], [t] -> [t, d]: one row alone, the whole prompt before it, by transformers itself."""
    embed = model.get_input_embeddings()
    prompt = embed(torch.tensor(PROMPT.token_ids)).clone()
    prompt[PROMPT.marker_index] = row
    inputs = torch.cat([prompt, embed(response)])[None]
    decoder = getattr(model.model, "language_model", model.model)
    states = decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[0]
    return states[len(prompt) - 1 : -1]


@pytest.mark.parametrize("arch", ARCHS)
def test_rows_with_a_shared_prefix_are_as_rows_alone(arch: str) -> None:
    """Gemma's window is 8: prefix and rows are longer, and its angles differ by block."""
    model = made(arch)
    width = model.config.get_text_config().hidden_size
    rows, responses = torch.randn(3, width), random_ids(3, 11)
    weights = torch.randn(3, 11, width)
    gradients = []
    for states in (
        Decoder(model).response_states(PROMPT, rows, responses),
        torch.stack([unshared_states(model, *pair) for pair in zip(rows, responses, strict=True)]),
    ):
        model.zero_grad()
        (states * weights).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        if len(gradients) == 1:
            shared = states.detach()
    # float32 sums in another order, through six blocks whose states are of the order of 10.
    torch.testing.assert_close(shared, states.detach(), rtol=2e-4, atol=2e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        scale = gradient.abs().max()
        torch.testing.assert_close(
            gradients[0][name] / scale, gradient / scale, rtol=0, atol=2e-4, msg=name
        )


@pytest.mark.parametrize("arch", ARCHS)
def test_last_states_are_the_output_of_block_k(arch: str) -> None:
    model = made(arch)
    token_ids, lengths = random_ids(3, 17), torch.tensor([17, 1, 9])
    got = Decoder(model).last_states(token_ids, lengths, 3)
    for row, length, state in zip(token_ids, lengths, got, strict=True):
        states = model(row[None, :length], output_hidden_states=True).hidden_states[3]
        torch.testing.assert_close(state, states[0, -1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("arch", ("qwen2", "gemma3"))
def test_blocks_that_are_run_again_change_no_bit(arch: str) -> None:
    rows, responses = torch.randn(2, 72), random_ids(2, 5)
    found = []
    for is_checkpointed in (False, True):
        model = made(arch)
        decoder = Decoder(model, is_checkpointed=is_checkpointed)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: (kept.append(tensor.numel()), tensor)[1], lambda t: t
        ):
            states = decoder.response_states(PROMPT, rows, responses)
        decoder.logits(states).square().mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((states.detach(), gradients, sum(kept)))
    (plain, expected, plain_kept), (again, got, kept_again) = found
    assert torch.equal(plain, again)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    # Less is kept, or the checkpointing is none.
    assert kept_again < plain_kept / 3


def test_weights_have_the_names_of_an_unwrapped_checkpoint() -> None:
    names = {arch: dict(Decoder(made(arch)).named_weights()) for arch in ARCHS}
    assert names["gemma3_wrapped"].keys() == names["gemma3"].keys()
    assert "lm_head.weight" not in names["gemma3"], "its head is the embedding"
    plain = made("qwen3")
    assert {name: id(weight) for name, weight in names["qwen3"].items()}.keys() == dict(
        plain.named_parameters()
    ).keys()


def test_other_attention_is_refused() -> None:
    config = make_config("qwen3", num_layers=2, vocab_size=50, tied=False)
    model = make_model("qwen3", config, seed=0)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        Decoder(model)
