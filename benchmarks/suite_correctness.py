"""Is the forward pass right? Logits of given tokens against float32, beside those of transformers.

    error = ||logits - logits_float32|| / ||logits_float32||

over the prompt's rows from the injected one on, and over generated positions, which our side runs
through its pages one decode step at a time. The weights are the same; the float32 reference holds
them upcast. Our error may be 1.25 times that of transformers in the same type. Then the engine
itself, graphs and sampling included, explains activations, and the log-probabilities it reports
are compared with the reference's of the tokens it drew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from suite_engine import build, dtype_label, run_pass
from suite_report import Row
from suite_shape import SEED, RandomPair
from suite_transformers import embedded_prompts
from torch import Tensor

from gloss_engine import EngineConfig
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.models.batch import ForwardBatch
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_kernels import DecodePlan, PackedPlan

MOST_OF_TRANSFORMERS = 1.25
MOST_OF_LOGPROBS = 1.5
"""Means of |error| over 32 sums scatter by about 13%, their ratio by 19%: 1.25 would fail by
chance."""

MOST_FP8 = 0.5
"""Far above what rounding to e4m3 costs, below the error of a scale that is lost."""

ITEMS = 32
_ITEMS_AT_ONCE = 8
_PAGE_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class Forced:
    """Given tokens after the prompt of some activations, with what float32 makes of them.

    Attributes:
        activations: [n, d_model] float32.
        token_ids: [n, num_forced] int64.
        logits: [n, suffix_len + num_forced, vocab_size] float32.
        peer: transformers in the model's own type, with the attention that ran.
        errors: of that peer, over prompt rows and generated ones.
    """

    activations: Tensor
    token_ids: Tensor
    logits: Tensor
    peer: str
    errors: tuple[float, float]


@torch.inference_mode()
def forced(pair: RandomPair, model: Any, reference: Any) -> Forced:
    """Random tokens, and the logits of transformers in float32 and in the model's own type."""
    num_forced = min(32, pair.shape.new_tokens - 1)
    generator = torch.Generator().manual_seed(SEED + 4)
    shape = (ITEMS, num_forced)
    token_ids = torch.randint(pair.shape.spec.vocab_size, shape, generator=generator)
    token_ids = token_ids.to(pair.decoder.device)
    activations = pair.activations(ITEMS)
    logits = transformers_logits(reference, pair, activations, token_ids)
    theirs = transformers_logits(model, pair, activations, token_ids)
    errors = relative_errors(theirs, logits, pair.program.suffix_ids.shape[0])
    return Forced(
        activations=activations,
        token_ids=token_ids,
        logits=logits,
        peer=_label(model),
        errors=errors,
    )


def check_logits(pair: RandomPair, config: EngineConfig, given: Forced) -> Iterator[Row]:
    """Our error over prompt rows and over generated ones, each beside that of transformers."""
    ours = paged_logits(pair, given.activations, given.token_ids)
    errors = relative_errors(ours, given.logits, pair.program.suffix_ids.shape[0])
    quantized = config.quantization != "none"
    for where, error, peer in zip(("prompt", "generated"), errors, given.errors, strict=True):
        row = Row(
            figure=f"logit_error_{where}",
            value=error,
            unit="relative",
            batch=ITEMS,
            dtype=dtype_label(config),
            peer=given.peer,
            ratio=error / peer,
            activations=ITEMS,
            note=f"{given.peer}: {peer:.2e}",
        )
        limit = MOST_FP8 if quantized else MOST_OF_TRANSFORMERS * peer
        yield _held(row, error, limit)


@torch.inference_mode()
def check_logprobs(
    pair: RandomPair, config: EngineConfig, model: Any, reference: Any
) -> Iterator[Row]:
    """The engine's reported log-probabilities of the tokens it drew itself, nats a token."""
    engine = build(pair, replace(config, num_slots=ITEMS)).engine
    explanations = run_pass(engine, pair, ITEMS, scoring=False).explanations
    token_ids = torch.tensor([explanation.token_ids for explanation in explanations])
    token_ids = token_ids.to(pair.decoder.device)
    reported = torch.tensor([explanation.logprob for explanation in explanations])
    activations = pair.activations(ITEMS)
    expected = _logprobs(reference, pair, activations, token_ids)
    theirs = _logprobs(model, pair, activations, token_ids)
    count = token_ids.shape[1]
    error = float((reported.double() - expected).abs().mean()) / count
    peer = float((theirs - expected).abs().mean()) / count
    row = Row(
        figure="logprob_error",
        value=error,
        unit="nats a token",
        batch=ITEMS,
        dtype=dtype_label(config),
        peer=_label(model),
        ratio=error / peer,
        activations=ITEMS,
        note=f"{_label(model)}: {peer:.2e}; mean |error| of an explanation over {count} tokens",
    )
    yield _held(row, error, MOST_OF_LOGPROBS * peer)


def _label(model: Any) -> str:
    return f"transformers forward, {model.config._attn_implementation}"


def _held(row: Row, error: float, limit: float) -> Row:
    """The row, failed where its error is above the limit or no number."""
    if error <= limit:
        return row
    return replace(row, error=f"above {limit:.2e}", failed=True)


def transformers_logits(
    model: Any, pair: RandomPair, activations: Tensor, token_ids: Tensor
) -> Tensor:
    """[n, suffix_len + num_forced, vocab_size] in the model's type, n sequences in parts."""
    kept = pair.program.suffix_ids.shape[0] + token_ids.shape[1]
    out = []
    for start in range(0, len(activations), _ITEMS_AT_ONCE):
        part = slice(start, start + _ITEMS_AT_ONCE)
        prompts = embedded_prompts(model, pair, activations[part])
        embeds = torch.cat((prompts, model.get_input_embeddings()(token_ids[part])), dim=1)
        out.append(model(inputs_embeds=embeds, logits_to_keep=kept, use_cache=False).logits)
    return torch.cat(out)


@torch.inference_mode()
def paged_logits(pair: RandomPair, activations: Tensor, token_ids: Tensor) -> Tensor:
    """The same of our decoder: suffixes packed behind the prefix, then a step for each token.

    The pages of a sequence are scattered over the pool, as after long use.
    """
    decoder, program = pair.decoder, pair.program
    device, spec = decoder.device, decoder.spec
    (n, num_forced), suffix_len = token_ids.shape, program.suffix_ids.shape[0]
    max_pages = -(-(suffix_len + num_forced) // _PAGE_SIZE)
    generator = torch.Generator().manual_seed(SEED + 5)
    pages = torch.randperm(2 * n * max_pages, generator=generator)[: n * max_pages] + 1
    table = pages.view(n, max_pages).to(device)
    cache = allocate_pool(spec, 2 * n * max_pages + 1, _PAGE_SIZE, device, decoder.dtype)
    prefix_len = pair.shape.prefix_len

    def slots(at: Tensor) -> Tensor:
        """Page and offset of private position `at` of every sequence, [2, n * len(at)]."""
        return torch.stack((table[:, at // _PAGE_SIZE], (at % _PAGE_SIZE).expand(n, -1))).flatten(1)

    at = torch.arange(suffix_len, device=device)
    starts = torch.arange(n + 1, device=device) * suffix_len
    buffer = PrefillBuffer(decoder, program, max_prefills=n)
    places = torch.arange(n, device=device) + 1
    buffer.write(activations.to(device), places)
    hidden_states = decoder.embed(program.suffix_ids.repeat(n), starts[:-1], buffer.rows, places)
    batch = ForwardBatch(
        positions=(at + prefix_len).repeat(n),
        packed=PackedPlan(starts, num_tokens=n * suffix_len, max_seqlen=suffix_len),
        prefix=program.prefix,
        cache=cache,
        slot_mapping=slots(at),
    )
    hidden_states = decoder.forward(hidden_states, batch)
    out = [decoder.logits(hidden_states).view(n, suffix_len, -1)]
    for index in range(num_forced):
        stored = torch.full((n,), suffix_len + index, device=device)
        plan = DecodePlan(
            table,
            stored + 1,
            max_private_len=suffix_len + index + 1,
            page_size=_PAGE_SIZE,
            num_kv_heads=spec.num_kv_heads,
            prefix_len=prefix_len,
        )
        batch = ForwardBatch(
            positions=stored + prefix_len,
            decode=plan,
            prefix=program.prefix,
            cache=cache,
            slot_mapping=slots(stored[:1]),
        )
        hidden_states = decoder.forward(decoder.embed(token_ids[:, index].contiguous()), batch)
        out.append(decoder.logits(hidden_states).unsqueeze(1))
    return torch.cat(out, dim=1)


def relative_errors(logits: Tensor, expected: Tensor, suffix_len: int) -> tuple[float, float]:
    """||logits - expected|| / ||expected|| over the prompt's rows, and over those after it."""
    errors = []
    for rows in (slice(None, suffix_len), slice(suffix_len, None)):
        off = size = 0.0
        for got, wanted in zip(logits[:, rows], expected[:, rows], strict=True):
            off += float((got.float() - wanted).square().sum(dtype=torch.float64))
            size += float(wanted.square().sum(dtype=torch.float64))
        errors.append(math.sqrt(off / size))
    return errors[0], errors[1]


def _logprobs(model: Any, pair: RandomPair, activations: Tensor, token_ids: Tensor) -> Tensor:
    """[n] float64: the log-probability of each sequence of tokens, on the host."""
    out = []
    for start in range(0, len(activations), _ITEMS_AT_ONCE):
        part = slice(start, start + _ITEMS_AT_ONCE)
        logits = transformers_logits(model, pair, activations[part], token_ids[part])
        # The row before a token predicts it; the last row predicts what was not drawn.
        predicting = logits[:, -token_ids.shape[1] - 1 : -1].float()
        chosen = token_ids[part].unsqueeze(-1)
        logprobs = predicting.log_softmax(dim=-1).gather(-1, chosen).squeeze(-1)
        out.append(logprobs.sum(dim=-1, dtype=torch.float64).cpu())
    return torch.cat(out)
