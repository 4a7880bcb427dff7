"""What is the same for every activation of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gloss_engine.models.batch import Prefix

ADD_LAYER_INDEX = 1
"""The `add` dialect writes to the output of block 1 (hidden_states[2])."""


@dataclass(frozen=True, kw_only=True)
class AvProgram:
    """An AV's prompt, prefix and stops.

    Attributes:
        suffix_ids: [suffix_len] int64, the marker and the prompt's tokens after it, at least one.
        prefix: keys and values of the prompt before the marker, None when there are none.
        injection_scale: L2 norm of an injected row.
        injection_mode: "replace" or "add".
        stop_table: [num_states + 1, vocab_size] uint8, the closing tag's automaton.
        is_eos: [vocab_size] bool.
    """

    suffix_ids: Tensor
    prefix: Prefix | None
    injection_scale: float
    injection_mode: str
    stop_table: Tensor
    is_eos: Tensor

    @property
    def prefix_len(self) -> int:
        """Tokens before the marker."""
        return 0 if self.prefix is None else len(self.prefix)
