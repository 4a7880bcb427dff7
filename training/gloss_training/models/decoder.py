"""A decoder of transformers whose blocks are run one by one, as AV and AR need them.

Qwen2, Qwen3, Llama and Gemma 3, also wrapped. Rows that begin with the same prompt go through
each block together with it: the block reads that prefix once, and every row attends to its keys
and values, which never leave the block. So a block can be run again in the backward pass
(gradient checkpointing), and gathered and freed as a unit (`sharding.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, noop_context_fn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

if TYPE_CHECKING:
    from gloss_training.models.prompts import MarkedPrompt

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Called where a block runs: what it runs in, and what it is run again in."""

FORWARD_METHODS: Final = ("response_states", "last_states", "logits")
"""The methods of a Decoder that read its weights."""
_HAS_CACHE: Final = "cache" in inspect.signature(LlamaDecoderLayer.forward).parameters
_CACHE: Final = "cache" if _HAS_CACHE else "past_key_values"


class Decoder(torch.nn.Module):
    """A causal language model, run over rows with a common beginning or over its first blocks.

    Args:
        model: of transformers, with a head, and with attention `sdpa`.
        is_checkpointed: keep only what goes from block to block for the backward pass, and run
            each block again there.
        contexts: surroundings that a block needs again when it is run again.
    """

    def __init__(
        self, model: Any, *, is_checkpointed: bool = False, contexts: Contexts = noop_context_fn
    ) -> None:
        super().__init__()
        attention = model.config.get_text_config()._attn_implementation
        if attention != "sdpa":
            raise ValueError(
                f"attention implementation: got {attention!r}, expected 'sdpa', whose masks the "
                "shared prompt needs; load the model with attn_implementation='sdpa'"
            )
        self.model = model
        for block in self.blocks:
            block.joint = partial(_joint, block, contexts if is_checkpointed else None)

    @property
    def text(self) -> Any:
        """The text part without its head: of a wrapped model the language model in it."""
        inner = self.model.model
        return getattr(inner, "language_model", inner)

    @property
    def blocks(self) -> Any:
        return self.text.layers

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The text part's weights by their names in an unwrapped checkpoint; a tied head is none.

        What adapters add is not among them.
        """
        for name, weight in self.text.named_parameters(prefix="model"):
            if ".lora_" not in name:
                yield name, weight
        head = self.model.get_output_embeddings()
        if not self.model.config.tie_word_embeddings:
            yield "lm_head.weight", head.weight

    def response_states(self, prompt: MarkedPrompt, rows: Tensor, responses: Tensor) -> Tensor:
        """States whose logits predict each id of a response.

        Args:
            prompt: its part before the marker is read once for all rows.
            rows: [n, d_model], put in the marker's place as they are.
            responses: [n, t] int64, padded on the right with anything.

        Returns:
            [n, t, d_model], after the final norm.
        """
        embed = self.model.get_input_embeddings()
        before, after = (
            embed(torch.tensor(ids, device=rows.device))
            for ids in (
                prompt.token_ids[: prompt.marker_index],
                prompt.token_ids[prompt.marker_index + 1 :],
            )
        )
        answers = embed(responses[:, :-1].clamp_min(0))
        hidden = torch.cat(
            [rows[:, None].to(after.dtype), after.expand(len(rows), -1, -1), answers], dim=1
        )
        hidden = self._run(before[None], hidden, len(self.blocks))
        states: Tensor = self.text.norm(hidden[:, len(after) :])
        return states

    def last_states(self, token_ids: Tensor, lengths: Tensor, num_blocks: int) -> Tensor:
        """What the first blocks make of each text's last token, without the final norm.

        Args:
            token_ids: [n, t] int64, padded on the right.
            lengths: [n] int64.
            num_blocks: how many blocks are run.

        Returns:
            [n, d_model].
        """
        hidden = self._run(None, self.model.get_input_embeddings()(token_ids), num_blocks)
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]

    def logits(self, states: Tensor) -> Tensor:
        """[..., d_model] states after the final norm -> [..., vocabulary] float32."""
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits.float()

    def _run(self, prefix: Tensor | None, hidden: Tensor, num_blocks: int) -> Tensor:
        """[1, p, d], [n, t, d] -> [n, t, d] after the first `num_blocks` blocks."""
        config = self.text.config
        types = getattr(config, "layer_types", None) or ["full_attention"] * len(self.blocks)
        inputs = {kind: self._inputs(kind, prefix, hidden) for kind in set(types[:num_blocks])}
        for kind, block in zip(types[:num_blocks], self.blocks, strict=False):
            prefix, hidden = block.joint(prefix, hidden, inputs[kind])
        return hidden

    def _inputs(self, kind: str, prefix: Tensor | None, hidden: Tensor) -> _Inputs:
        """Angles and masks of the blocks of one kind."""
        start = 0 if prefix is None else prefix.shape[1]
        window = self.text.config.sliding_window if kind == "sliding_attention" else None
        return _Inputs(
            prefix={} if prefix is None else self._span(kind, prefix, 0, window),
            rows=self._span(kind, hidden, start, window),
        )

    def _span(self, kind: str, hidden: Tensor, start: int, window: int | None) -> dict[str, Any]:
        count = hidden.shape[1]
        positions = torch.arange(start, start + count, device=hidden.device)[None]
        rotary = self.text.rotary_emb
        is_exact = all(each.dtype.itemsize >= 4 for each in rotary.buffers())
        assert is_exact, "rotary frequencies were rounded; cast with model_files.cast_weights"
        # Gemma's blocks have angles of their own kind.
        by_kind = "layer_type" in inspect.signature(rotary.forward).parameters
        angles = rotary(hidden, positions, kind) if by_kind else rotary(hidden, positions)
        return {
            "position_embeddings": angles,
            "attention_mask": _mask(start, count, window, hidden.device),
        }


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What a block is given beside the hidden states, for the prefix and for the rows."""

    prefix: dict[str, Any]
    rows: dict[str, Any]


class _PrefixCache:
    """What a block's attention takes for its cache: the first keys and values that come are kept,
    one row of them; those that come next are given back behind them."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def update(
        self, keys: Tensor, values: Tensor, layer_index: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """[n, heads, t, head_dim] each -> [n, heads, p + t, head_dim]."""
        if self._kept is None:
            self._kept = keys, values
            return self._kept
        first_keys, first_values = (kept.expand(len(keys), -1, -1, -1) for kept in self._kept)
        return torch.cat([first_keys, keys], dim=2), torch.cat([first_values, values], dim=2)


def _joint(
    block: Any, contexts: Contexts | None, prefix: Tensor | None, rows: Tensor, inputs: _Inputs
) -> tuple[Tensor | None, Tensor]:
    """One block over prefix and rows. Not its `__call__`, so that what hangs on calls (FSDP2's
    gathering) happens once around both."""
    if contexts is None or not torch.is_grad_enabled():
        return _pass(block, prefix, rows, inputs)
    output: tuple[Tensor | None, Tensor] = checkpoint(
        _pass,
        block,
        prefix,
        rows,
        inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=contexts,
    )
    return output


def _pass(
    block: Any, prefix: Tensor | None, rows: Tensor, inputs: _Inputs
) -> tuple[Tensor | None, Tensor]:
    if prefix is None:
        return None, block.forward(rows, **inputs.rows)
    cache = _PrefixCache()
    prefix = block.forward(prefix, **{_CACHE: cache}, **inputs.prefix)
    return prefix, block.forward(rows, **{_CACHE: cache}, **inputs.rows)


def _mask(start: int, count: int, window: int | None, device: torch.device) -> Tensor | None:
    """[1, 1, count, start + count] bool, True where a token looks; None: all before it."""
    if start == 0 and (window is None or count <= window):
        return None
    queries = torch.arange(start, start + count, device=device)[:, None]
    keys = torch.arange(start + count, device=device)[None]
    seen = keys <= queries
    if window is not None:
        seen &= queries - keys < window
    return seen[None, None]
