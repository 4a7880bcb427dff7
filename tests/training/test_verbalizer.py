"""Injection by position, the shared prompt, and responses cut where the turn ends."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.prompts import explanation_of, marked_prompt
from gloss_training.verbalizer import (
    Verbalizer,
    encode_responses,
    injected_rows,
    prompt_embeddings,
    response_loss,
    verbalize,
)
from gloss_training.world_settings import WORLD_PROMPT

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
        answer = model.get_input_embeddings()(torch.tensor([response]))
        inputs = torch.cat([prompt_embeddings(model, prompt, row[None]), answer], dim=1)
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
        response_loss(speaker, rows, responses),
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
    shared = response_loss(speaker, rows, responses)
    whole = unshared_loss(target, tokenizer, rows, responses)
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)


def test_injected_rows_have_the_asked_norm_whatever_came_in() -> None:
    rows = torch.tensor([[3.0, 4.0], [3e-6, 4e-6], [3e15, 4e15]])
    injected = injected_rows(rows, 2.5)
    torch.testing.assert_close(injected, torch.tensor([[1.5, 2.0]]).expand(3, 2))
    assert injected_rows(torch.zeros(1, 2), 2.5).tolist() == [[0.0, 0.0]]


def test_only_the_marker_row_differs(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompt = marked_prompt(tokenizer, WORLD_PROMPT)
    rows = torch.randn(2, 32)
    embedded = prompt_embeddings(target, prompt, rows)
    plain = target.get_input_embeddings()(torch.tensor(prompt.token_ids))
    for index in range(len(prompt.token_ids)):
        expected = rows if index == prompt.marker_index else plain[index].expand(2, -1)
        assert torch.equal(embedded[:, index], expected)


def test_responses_repeat_for_a_seed_and_end_at_the_turns_end(
    target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = torch.randn(9, 32)

    def sample(seed: int) -> list[str]:
        prompt = marked_prompt(tokenizer, WORLD_PROMPT)
        return verbalize(target, tokenizer, prompt, rows, max_new_tokens=40, seed=seed)

    texts = sample(5)
    assert sample(5) == texts
    assert sample(6) != texts
    assert not any(tokenizer.eos_token in text or tokenizer.pad_token in text for text in texts)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<explanation> He eats. </explanation>", ("He eats.", True)),
        ("<explanation> He eats", ("He eats", False)),
        ("He eats. </explanation> more", ("He eats.", True)),
        ("", ("", False)),
    ],
)
def test_explanation_of_a_response(response: str, expected: tuple[str, bool]) -> None:
    assert explanation_of(response) == expected
