"""Injection by position, and the shared prompt."""

import copy

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.models.prompts import marked_prompt
from gloss_training.models.verbalizer import (
    Verbalizer,
    encode_responses,
    injected_rows,
    response_loss,
)
from gloss_training.world.settings import WORLD_PROMPT

MARKER = WORLD_PROMPT.injection_char
TEXTS = ["The hero is Ben.", "It is a rainy morning. He is in the garden with Ada."]


def unshared_loss(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: torch.Tensor,
    responses: list[list[int]],
) -> torch.Tensor:
    """The same loss, one row at a time, the whole prompt each time."""
    prompt = marked_prompt(tokenizer, WORLD_PROMPT)
    total = torch.zeros((), dtype=rows.dtype)
    for row, response in zip(rows, responses, strict=True):
        inputs = model.get_input_embeddings()(torch.tensor([[*prompt.token_ids, *response]]))
        inputs = inputs.index_copy(1, torch.tensor([prompt.marker_index]), row[None, None])
        logits = model(inputs_embeds=inputs).logits[0, len(prompt.token_ids) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(response), reduction="sum"
        )
    return total


def test_shared_prompt_changes_neither_loss_nor_gradients(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = target.double()
    torch.manual_seed(1)
    rows = torch.randn(2, 32, dtype=torch.float64)
    responses = encode_responses(tokenizer, TEXTS, tokenizer.eos_token_id)
    losses, gradients = [], []
    speaker = Verbalizer(model, marked_prompt(tokenizer, WORLD_PROMPT))
    for loss in (
        response_loss(speaker, rows, responses, chunk=1000),
        unshared_loss(model, tokenizer, rows, responses),
    ):
        model.zero_grad()
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    # Logits are float32 whatever the model is.
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=1e-6, atol=1e-6)
    assert len(gradients[0]) == len(list(model.parameters()))
    for shared, whole in zip(*gradients, strict=True):
        # Qwen3's norms and rotary angles go through float32 even in a float64 model.
        torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-7)


def test_a_marker_in_the_response_is_data(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Injection by id would put the vector at the second marker too."""
    rows = torch.randn(1, 32)
    responses = encode_responses(tokenizer, [f"The hero is {MARKER}."], tokenizer.eos_token_id)
    speaker = Verbalizer(target, marked_prompt(tokenizer, WORLD_PROMPT))
    shared = response_loss(speaker, rows, responses, chunk=1000)
    whole = unshared_loss(target, tokenizer, rows, responses)
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)


def test_injected_rows_have_the_asked_norm_whatever_came_in() -> None:
    rows = torch.tensor([[3.0, 4.0], [3e-6, 4e-6], [3e15, 4e15]])
    injected = injected_rows(rows, 2.5)
    torch.testing.assert_close(injected, torch.tensor([[1.5, 2.0]]).expand(3, 2))
    assert injected_rows(torch.zeros(1, 2), 2.5).tolist() == [[0.0, 0.0]]


def test_a_loss_asks_nothing_of_its_device(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    """A host that reads a number waits for all it has launched. On "meta" there is none to read."""
    speaker = Verbalizer(copy.deepcopy(target).to("meta"), marked_prompt(tokenizer, WORLD_PROMPT))
    responses = encode_responses(tokenizer, TEXTS, tokenizer.eos_token_id)
    rows = torch.empty(2, 32, device="meta")
    response_loss(speaker, rows, responses, chunk=8).backward()


@pytest.mark.parametrize("num_chunks", [1, 9])
def test_logits_are_held_for_a_chunk_at_a_time(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, num_chunks: int
) -> None:
    """Loss and gradients are the same, also where another rank has more chunks."""
    model, held = target.double(), []

    class Speaker(Verbalizer):
        def logits(self, states: torch.Tensor) -> torch.Tensor:
            held.append(len(states))
            return super().logits(states)

    torch.manual_seed(1)
    rows = torch.randn(2, 32, dtype=torch.float64)
    responses = encode_responses(tokenizer, TEXTS, tokenizer.eos_token_id)
    speaker = Speaker(model, marked_prompt(tokenizer, WORLD_PROMPT))
    losses, gradients = [], []
    for chunk, least in ((1000, 1), (5, num_chunks)):
        held.clear()
        model.zero_grad()
        loss = response_loss(speaker, rows, responses, chunk=chunk, num_chunks=least)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    num_tokens = sum(map(len, responses))
    # Once forward and once for the backward pass.
    assert max(held) == 5 and sum(held) == 2 * num_tokens
    assert len(held) == 2 * max(num_chunks, -(-num_tokens // 5))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-7)
