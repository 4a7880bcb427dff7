"""What transformers makes of the same work: `generate` and `generate_batch`, on the same weights.

generate        embedded prompts, batch after batch, as in a notebook: with a static cache and the
                compiled forward that transformers chooses by itself on a GPU, and as it is called
                without settings.
generate_batch  continuous batching. It takes ids, no embeddings: the injected rows are appended to
                the embedding table and named by ids. Pages of 32 tokens, so that 96 of the 100
                shared tokens can be shared; its own default of 256 shares nothing. The attention
                is flash where a flash package is installed, else paged sdpa, which is quadratic in
                the batch: the row's peer says which.

Sampling at temperature 1 without filters, no end of sequence, everybody to the same length. What
is compiled or captured is warmed up first and not timed. Where the time does not suffice for all
activations the rate is over fewer, as the row says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from suite_report import THEIRS, Row
from suite_shape import RandomPair
from suite_transformers import embedded_prompts
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from gloss_kernels import scale_to_norm

PAGE_SIZE = 32
_MAX_BATCH_TOKENS = 2048
"""Rows of a step: enough to be bound by products. Scores of paged sdpa grow with them times all
keys: at the default of 8,192 they are tens of GB wherever its plain form runs."""

_WARM_UPS = 2
"""A compiled forward is recorded in the second call."""


def settings(new_tokens: int, **more: Any) -> GenerationConfig:
    """Plain sampling of exactly `new_tokens` tokens."""
    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new_tokens,
        eos_token_id=None,
        pad_token_id=0,
        **more,
    )


@torch.no_grad()
def generate(
    model: Any, pair: RandomPair, batch: int, count: int, seconds: float, *, static: bool
) -> Iterator[Row]:
    """`generate` on batches of `batch` prompts.

    Args:
        count: activations wanted.
        seconds: no further batch is begun after so many.
        static: with a static cache, compiled on a GPU.
    """
    config = settings(pair.shape.new_tokens, cache_implementation="static" if static else None)
    activations = pair.activations(count)

    def run(rows: Tensor) -> None:
        embeds = embedded_prompts(model, pair, rows)
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
        out = model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=config)
        if out.shape != (len(rows), pair.shape.new_tokens):
            raise RuntimeError(
                f"generate: got {list(out.shape)} tokens, "
                f"expected {[len(rows), pair.shape.new_tokens]}"
            )

    for _ in range(_WARM_UPS):
        run(activations[:batch])
    compiled = static and getattr(model, "_compiled_call", None) is not None
    label = "transformers generate, " + ("static cache" if static else "dynamic cache")
    label += f", {'compiled' if compiled else 'eager'}, {model.config._attn_implementation}"
    batches = [activations[start : start + batch] for start in range(0, count, batch)]
    done, taken = 0, 0.0
    for rows in batches:
        if done and taken > seconds:
            break
        taken += _seconds(lambda rows=rows: run(rows))  # type: ignore[misc]
        done += len(rows)
    yield _row(label, model, batch, done, taken)


def generate_batch(
    model: Any, pair: RandomPair, batch: int, count: int, seconds: float
) -> Iterator[Row]:
    """`generate_batch` with `batch` requests at most in flight; arguments as of `generate`."""
    vocab_size = pair.shape.spec.vocab_size
    embedding = model.get_input_embeddings()
    table, attention = embedding.weight, model.config._attn_implementation
    vectors = scale_to_norm(pair.activations(count), pair.program.injection_scale)
    ids, at = pair.prompt_ids.tolist(), pair.shape.prefix_len
    prompts = [[*ids[:at], vocab_size + index, *ids[at + 1 :]] for index in range(count)]
    config = settings(pair.shape.new_tokens)
    config.eos_token_id = -1
    limits, prefix = _continuous_batching(pair, batch)
    chosen = _installed_attention()

    def run(requests: list[list[int]]) -> None:
        results = model.generate_batch(
            requests,
            generation_config=config,
            continuous_batching_config=limits,
            persistent_manager=True,
        )
        lengths = [len(result.generated_tokens) for result in results.values()]
        if lengths != [pair.shape.new_tokens] * len(requests):
            errors = {result.error for result in results.values() if result.error is not None}
            raise RuntimeError(
                f"generate_batch: got {len(lengths)} results of {sorted(set(lengths))} tokens, "
                f"expected {len(requests)} of {pair.shape.new_tokens}; {errors or 'no error'}"
            )

    try:
        rows = torch.cat((table, vectors.to(table.device, table.dtype)))
        embedding.weight = torch.nn.Parameter(rows, requires_grad=False)
        model.set_attn_implementation(prefix + chosen)
        # The first call sets up and captures; the second says what the time suffices for.
        run(prompts[:batch])
        done, taken = batch, _seconds(lambda: run(prompts[:batch]))
        affordable = min(count, batch * int(seconds / taken))
        if affordable > done:
            done, taken = affordable, _seconds(lambda: run(prompts[:affordable]))
    finally:
        model.destroy_cached_continuous_batching_manager()
        model.set_attn_implementation(attention)
        embedding.weight = table
    label = f"transformers generate_batch, paged {chosen}, pages of {PAGE_SIZE}"
    yield _row(label, model, batch, done, taken)


def _installed_attention() -> str:
    """The best attention for continuous batching that is installed here."""
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def _continuous_batching(pair: RandomPair, batch: int) -> tuple[Any, str]:
    """Its configuration, and the prefix that makes an attention's name a paged one.

    Pages suffice for `batch` whole sequences and what they leave empty. Until transformers 5.18 a
    page was called a block and paged attention had names of its own; since then any is made paged,
    and one that was chosen is kept only if that is asked for.
    """
    shape = pair.shape
    known = {field.name for field in fields(ContinuousBatchingConfig)}
    own_names = "auto_switch_to_flash" not in known
    options: dict[str, Any] = {} if own_names else {"auto_switch_to_flash": False}
    options["page_size" if "page_size" in known else "block_size"] = PAGE_SIZE
    per_sequence = -(-(shape.prompt_len + shape.new_tokens) // PAGE_SIZE) + 1
    config = ContinuousBatchingConfig(
        num_blocks=batch * per_sequence,
        max_batch_tokens=_MAX_BATCH_TOKENS,
        max_requests_per_batch=batch,
        **options,
    )
    return config, "paged|" if own_names else ""


def _row(label: str, model: Any, batch: int, done: int, taken: float) -> Row:
    return Row(
        figure=THEIRS,
        value=done / taken,
        unit="1/s",
        batch=batch,
        dtype=str(model.dtype).removeprefix("torch."),
        scoring=False,
        peer=label,
        activations=done,
    )


def _seconds(run: Callable[[], None]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
