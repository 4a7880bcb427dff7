"""What a forward pass is told of its tokens: their ids, which are padding, what went before them.

A model, its base and its decoder are each called with a part of it. What is said last counts, since
the inner one knows what a wrapper has put before the text. Of masks, those over tokens count before
those over keys and queries, which only whoever called the model can have meant: `generate` passes
them with a static cache, and what a model makes of no mask says nothing new.

The host has to know which tokens are padding. It does not wait for the blocks to learn it: the copy
is queued before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gloss_engine.errors import TapError
from gloss_engine.transfer import Arriving

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

_SHUT_OUT = -1e3
"""Added to a score, what keeps a key out is below: -1e4, -1e9, the least number of a type, -inf."""


class ForwardInputs:
    """The inputs of one forward pass, gathered on its way to the block.

    Compiled code traces the making of it; reading it is for outside.

    Args:
        level: of the first module on the way that was called, 0: the model.

    Attributes:
        level: as given.
        input_ids: [num_sequences, num_tokens] int64 on any device, or None.
        cache: the KV cache, or None.
        uses_cache: False where the caller said so.
        logits_to_keep: last tokens of each sequence that logits are asked of, where that is said.
    """

    def __init__(self, level: int) -> None:
        self.level = level
        self.input_ids: Tensor | None = None
        self.cache: Any = None
        self.uses_cache = True
        self.logits_to_keep: int | None = None
        self._is_packed = False
        self._mask: Any = None
        self._real: Tensor | Arriving | None = None
        self._num_cached: int | Tensor | Arriving = 0

    def add(self, level: int, given: Mapping[str, Any]) -> None:
        """Take what the module at a level is called with, by the names of its parameters."""
        if given.get("input_ids") is not None:
            self.input_ids = given["input_ids"]
        if given.get("use_cache") is False:
            self.uses_cache = False
        if isinstance(given.get("logits_to_keep"), int):
            self.logits_to_keep = given["logits_to_keep"]
        self._is_packed |= given.get("cu_seq_lens_q") is not None
        # Older transformers say past_key_values.
        cache = given.get("cache")
        cache = given.get("past_key_values") if cache is None else cache
        if cache is not None and cache is not self.cache:
            self.cache = cache
            num_cached = cache.get_seq_length()
            # A static cache counts in a tensor, which grows within the pass.
            self._num_cached = _kept(num_cached) if isinstance(num_cached, Tensor) else num_cached
        mask = given.get("attention_mask")
        if isinstance(mask, dict):
            mask = mask.get("full_attention", next(iter(mask.values()), None))
        is_of_tokens = isinstance(mask, Tensor) and mask.ndim == 2
        if mask is None or mask is self._mask or not (is_of_tokens or level == self.level):
            return
        self._mask = mask
        if isinstance(mask, Tensor):
            self._real = _kept(mask if is_of_tokens else self._attends_itself(mask))

    def require_one_text_a_row(self) -> None:
        """Refuse texts packed into one row: positions would run through all of them.

        Raises:
            TapError: they are packed, as far as it shows.
        """
        if self._is_packed:
            raise TapError(
                "forward pass",
                got="a packed batch (cu_seq_lens_q), as of generate_batch",
                expected="a sequence of the batch for each text",
                fix="Run the texts as a padded batch, or one by one.",
            )

    def num_cached(self) -> int:
        """Tokens of every sequence, padding included, whose keys and values were there before."""
        counted = self._num_cached
        return counted if isinstance(counted, int) else int(_read(counted))

    def real_tokens(self, num_sequences: int, num_tokens: int) -> tuple[BoolArray, IntArray | None]:
        """Which tokens are no padding, on the host.

        Returns:
            [num_sequences, num_tokens] bool of this pass; [num_sequences] int64, how many such
            tokens went before, or None where the mask does not say.

        Raises:
            TapError: a mask of another size, or of a kind that cannot be read.
        """
        if self._mask is None:
            return np.ones((num_sequences, num_tokens), dtype=np.bool_), None
        if self._real is None:
            raise TapError(
                "attention_mask",
                got=f"a {type(self._mask).__name__}",
                expected="a tensor",
                fix="Pass the mask over tokens, [num_sequences, num_tokens].",
            )
        # No type of numpy for bfloat16.
        real = (_read(self._real) != 0).numpy()
        is_of_tokens = self._mask.ndim == 2
        num_cached = self.num_cached() if is_of_tokens else 0
        if real.shape[0] not in (1, num_sequences) or real.shape[1] < num_cached + num_tokens:
            raise TapError(
                "attention_mask",
                got=f"shape {list(self._mask.shape)}",
                expected=f"{num_sequences} sequences of {num_cached} cached and {num_tokens} "
                "new tokens",
                fix="Pass the mask that belongs to the tokens, those in the cache included.",
            )
        if len(real) < num_sequences:
            real = np.broadcast_to(real, (num_sequences, real.shape[1]))
        before = real[:, :num_cached].sum(axis=1) if is_of_tokens else None
        return real[:, num_cached : num_cached + num_tokens], before

    def _attends_itself(self, mask: Tensor) -> Tensor:
        """[num_sequences, num_tokens]: what a mask [.., num_tokens, num_keys] says of padding.

        Nobody attends to padding, and every other token to itself.
        """
        mask = mask[:, 0] if mask.ndim == 4 else mask
        num_tokens, num_keys = mask.shape[-2:]
        num_cached = self._num_cached
        if not isinstance(num_cached, int):
            num_cached = self.cache.get_seq_length().to(mask.device)
        own = torch.arange(num_tokens, device=mask.device) + num_cached
        # A window's mask may hold the last keys only.
        own = own.clamp(max=num_keys - 1)
        values = mask.gather(-1, own[None, :, None].expand(mask.shape[0], -1, 1)).squeeze(-1)
        return values > _SHUT_OUT if values.is_floating_point() else values


def _kept(tensor: Tensor) -> Tensor | Arriving:
    """A tensor as it is now, on its way to the host; compiled code only copies it."""
    if torch.compiler.is_compiling():
        return tensor.clone()
    # The copy is queued, and waited for, on the stream of its own device.
    with torch.cuda.device_of(tensor):
        return Arriving(tensor)


def _read(kept: Tensor | Arriving) -> Tensor:
    return kept.wait() if isinstance(kept, Arriving) else kept.cpu()
