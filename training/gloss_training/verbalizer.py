"""The activation verbalizer (AV): a Qwen3 model whose prompt holds one injected vector.

The embedding at the marker's position is replaced by h * injection_scale / max(|h|, 1e-12): by
position, never by looking for the marker's id. The prompt before the marker is the same for all
rows, so its keys and values are computed once a batch.
"""

import inspect
from collections.abc import Sequence
from typing import Final

import torch
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3ForCausalLM, Qwen3Model

from gloss_training.activations import wrap
from gloss_training.data import pad_right
from gloss_training.scoring import EPSILON
from gloss_training.seeds import torch_seed
from gloss_training.tokenizer import EXPLANATION_CLOSE, EXPLANATION_OPEN, MarkedPrompt, text_of

IGNORED: Final = -100
GENERATION_BATCH_SIZE: Final = 128
_IS_CACHE: Final = "cache" in inspect.signature(Qwen3Model.forward).parameters
CACHE_ARGUMENT: Final = "cache" if _IS_CACHE else "past_key_values"
"""What a model calls its keys and values: transformers 5.24 gave the argument another name."""


def injected_rows(activations: torch.Tensor, injection_scale: float) -> torch.Tensor:
    """[n, d] raw activations -> [n, d] rows of norm `injection_scale`, norms in fp32."""
    vectors = activations.float()
    return vectors * (injection_scale / vectors.norm(dim=-1, keepdim=True).clamp_min(EPSILON))


def encode_responses(
    tokenizer: PreTrainedTokenizerFast, explanations: Sequence[str]
) -> list[list[int]]:
    """Response ids of each explanation: tags around it and the end of the turn."""
    rows = tokenizer([wrap(text) for text in explanations], add_special_tokens=False).input_ids
    return [[*row, tokenizer.eos_token_id] for row in rows]


def prompt_embeddings(
    model: Qwen3ForCausalLM, prompt: MarkedPrompt, rows: torch.Tensor
) -> torch.Tensor:
    """The whole prompt for each injected row: [n, d] -> [n, prompt length, d]."""
    embedded = model.get_input_embeddings()(torch.tensor(prompt.token_ids))
    batch = embedded.expand(len(rows), -1, -1).clone()
    batch[:, prompt.marker_index] = rows
    return batch


def response_loss(
    model: Qwen3ForCausalLM,
    prompt: MarkedPrompt,
    rows: torch.Tensor,
    responses: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Mean cross-entropy of the response tokens given the injected rows [n, d]; scalar.

    The part of the prompt before the marker runs once and is shared by the batch.
    """
    cache = DynamicCache(config=model.config)
    shared = torch.tensor([prompt.token_ids[: prompt.marker_index]])
    model.model(input_ids=shared, use_cache=True, **{CACHE_ARGUMENT: cache})
    cache.batch_repeat_interleave(len(rows))
    embed = model.get_input_embeddings()
    after = embed(torch.tensor(prompt.token_ids[prompt.marker_index + 1 :]))
    targets = pad_right(responses, IGNORED)
    inputs = torch.cat(
        [
            rows[:, None],
            after.expand(len(rows), -1, -1),
            embed(targets[:, :-1].clamp_min(0)),
        ],
        dim=1,
    )
    states = model.model(inputs_embeds=inputs, **{CACHE_ARGUMENT: cache}).last_hidden_state
    logits = model.lm_head(states[:, len(after) :])
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


@torch.no_grad()
def verbalize(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: MarkedPrompt,
    rows: torch.Tensor,
    *,
    max_new_tokens: int,
    seed: int,
) -> list[str]:
    """Samples one response at temperature 1 for each injected row [n, d]; raw text with tags."""
    torch_seed(seed, "verbalize")
    texts: list[str] = []
    for batch in rows.split(GENERATION_BATCH_SIZE):
        inputs = prompt_embeddings(model, prompt, batch)
        output = model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.int64),
            max_new_tokens=max_new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts.extend(text_of(tokenizer, _until_end(row, tokenizer)) for row in output.tolist())
    return texts


def explanation_of(response: str) -> tuple[str, bool]:
    """The text between the tags and whether it was closed; all that came when it was not."""
    body = response.split(EXPLANATION_OPEN, 1)[-1]
    text, closing, _ = body.partition(EXPLANATION_CLOSE)
    return text.strip(), bool(closing)


def _until_end(token_ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids before the end of the turn."""
    stops = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    cut = next((i for i, token in enumerate(token_ids) if token in stops), len(token_ids))
    return token_ids[:cut]
