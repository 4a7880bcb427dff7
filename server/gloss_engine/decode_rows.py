"""What the AV's step and the target's have in common: one token for every running slot.

`decode_rows` says where the rows of a step stand, `draw` gives each its next token. Both read and
write the slots' tensors and ask the host nothing, so they belong inside a captured graph.

Rows of slots without a running sequence take part and leave no trace: they write to page 0, read
what they wrote there, and their state stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.models.decoder import Decoder
from gloss_engine.slots import Slots
from gloss_kernels import DecodePlan, Finish


@dataclass(frozen=True, kw_only=True)
class DecodeRows:
    """The first rows of a forward batch: one token each.

    Attributes:
        ids: [n] int64 tokens to run.
        positions: [n] int64 where they stand.
        places: [2, n] int64 page and offset that take their keys.
        plan: which keys they read.
        running: [n] bool rows that a running sequence holds.
    """

    ids: Tensor
    positions: Tensor
    places: Tensor
    plan: DecodePlan
    running: Tensor


@dataclass(frozen=True, kw_only=True)
class Stops:
    """What ends a sequence on the device.

    Attributes:
        table: [num_states + 1, vocab_size] uint8, an automaton over the text that tokens add.
        is_eos: [vocab_size] bool.
    """

    table: Tensor
    is_eos: Tensor


def decode_rows(
    slots: Slots,
    num_rows: int,
    *,
    page_size: int,
    num_kv_heads: int,
    prefix_len: int,
    max_private_len: int,
) -> DecodeRows:
    """The first `num_rows` slots as rows of a step.

    Args:
        slots: the state.
        num_rows: one or more.
        page_size, num_kv_heads: of the cache.
        prefix_len: shared keys before the private ones.
        max_private_len: host bound on the private keys of a row, the current one included.
    """
    running = slots.codes[:num_rows] == int(Finish.RUNNING)
    stored = slots.private_lens[:num_rows] * running
    table = slots.block_table[:num_rows] * running.unsqueeze(1)
    page = table.gather(1, (stored // page_size).unsqueeze(1)).squeeze(1)
    return DecodeRows(
        ids=slots.tokens[:num_rows] * running,
        positions=stored + prefix_len,
        places=torch.stack((page, stored % page_size)),
        plan=DecodePlan(
            table,
            stored + 1,
            max_private_len=max_private_len,
            page_size=page_size,
            num_kv_heads=num_kv_heads,
            prefix_len=prefix_len,
        ),
        running=running,
    )


def draw(
    decoder: Decoder, slots: Slots, hidden_states: Tensor, parts: frozenset[str], stops: Stops
) -> None:
    """Draw a token for the first rows and advance their state; results are in the slots' report.

    Args:
        decoder: whose head.
        slots: the state.
        hidden_states: [n, d_model] after the last block.
        parts: what the sampler must be able to do, of SAMPLER_PARTS.
        stops: what ends a sequence.
    """
    logits = decoder.logits(hidden_states)
    n = logits.shape[0]
    presence = slots.require_presence()[:n] if "penalty" in parts else None
    uniforms = None
    if "draw" in parts:
        at = slots.num_generated[:n].unsqueeze(1)
        uniforms = slots.uniforms[:n].gather(1, at).squeeze(1)
    tokens, logprobs, finite = decoder.operations.sample(
        logits,
        uniforms,
        temperatures=slots.temperatures[:n],
        any_greedy="greedy" in parts,
        top_ks=slots.top_ks[:n] if "top_k" in parts else None,
        top_ps=slots.top_ps[:n] if "top_p" in parts else None,
        min_ps=slots.min_ps[:n] if "min_p" in parts else None,
        penalties=slots.penalties[:n] if "penalty" in parts else None,
        presence=presence,
    )
    decoder.operations.advance(
        tokens,
        logprobs,
        finite,
        codes=slots.codes[:n],
        last_tokens=slots.tokens[:n],
        stop_states=slots.stop_states[:n],
        num_generated=slots.num_generated[:n],
        limits=slots.max_tokens[:n],
        stop_table=stops.table,
        is_eos=stops.is_eos,
        report=slots.report[:, :n],
        presence=presence,
    )
