"""Where packed sequences begin and how to pad them: worked out once a step, read by every block.

Rows of whole sequences stand packed, one after the other. What a backend needs beyond their bounds
is made when it first asks and kept: for the kernel the start of each row's sequence, for the
reference the place of each row once sequences are padded, and the masks. Nothing here reads a
device tensor on the host.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gloss_kernels.reference.attention import window_mask


class PackedPlan:
    """The packed sequences of one step.

    Args:
        cu_seqlens: [n + 1] int64, starts of the sequences and the end of the last; sequences may
            be empty.
        num_tokens: packed rows, which is the last of `cu_seqlens`.
        max_seqlen: host bound on the lengths.
    """

    def __init__(self, cu_seqlens: Tensor, *, num_tokens: int, max_seqlen: int) -> None:
        assert cu_seqlens.ndim == 1 and cu_seqlens.dtype == torch.int64
        self.cu_seqlens, self.num_tokens, self.max_seqlen = cu_seqlens, num_tokens, max_seqlen
        self._masks: dict[tuple[int, int | None, int], tuple[Tensor, Tensor | None]] = {}

    def __len__(self) -> int:
        """Sequences, empty ones included."""
        return self.cu_seqlens.shape[0] - 1

    @cached_property
    def starts(self) -> Tensor:
        """The packed row where each row's sequence begins, [num_tokens] int32."""
        return self.cu_seqlens.index_select(0, self._sequence).int()

    @cached_property
    def _sequence(self) -> Tensor:
        """The sequence of each row, [num_tokens]: the last to begin at or before it."""
        rows = torch.arange(self.num_tokens, device=self.cu_seqlens.device)
        return torch.searchsorted(self.cu_seqlens, rows, right=True) - 1

    def pad(self, packed: Tensor) -> Tensor:
        """[num_tokens, ...] to [n, max_seqlen, ...].

        A sequence is padded on the right with its own last row. Causality hides that from every
        real query, so padding needs no mask, and whatever it holds stays in its sequence.
        """
        if not self._is_dense:
            packed = packed.index_select(0, self._sources)
        return packed.reshape(len(self), self.max_seqlen, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """The reverse of `pad`: [n, max_seqlen, ...] to [num_tokens, ...]."""
        packed = padded.flatten(0, 1)
        return packed if self._is_dense else packed.index_select(0, self._destinations)

    def masks(
        self, group: int, window: int | None, prefix_len: int
    ) -> tuple[Tensor, Tensor | None]:
        """Additive masks of padded queries, `group` of which stand at each position.

        Returns:
            [1, max_seqlen * group, max_seqlen] over the sequence's own keys, and
            [max_seqlen * group, prefix_len] over the prefix, None where all of it is seen.
        """
        key = (group, window, prefix_len)
        if key not in self._masks:
            self._masks[key] = self._make_masks(*key)
        return self._masks[key]

    def _make_masks(
        self, group: int, window: int | None, prefix_len: int
    ) -> tuple[Tensor, Tensor | None]:
        index = torch.arange(self.max_seqlen, device=self.cu_seqlens.device)
        query = index.repeat_interleave(group).unsqueeze(1)
        own = window_mask(query, index, window, index <= query).unsqueeze(0)
        if window is None or prefix_len == 0:
            return own, None
        at = torch.arange(prefix_len, device=index.device)
        return own, window_mask(prefix_len + query, at, window, at >= 0)

    @property
    def _is_dense(self) -> bool:
        """Whether every sequence has `max_seqlen` rows: padding would change nothing."""
        return self.num_tokens == len(self) * self.max_seqlen

    @cached_property
    def _sources(self) -> Tensor:
        """The packed row that stands at each padded one, [n * max_seqlen]."""
        starts, lengths = self.cu_seqlens[:-1, None], self.cu_seqlens.diff()[:, None]
        within = torch.arange(self.max_seqlen, device=starts.device)
        rows = starts + torch.minimum(within, lengths - 1)
        return rows.clamp_min_(0).view(-1)  # An empty sequence takes any row; none of it is kept.

    @cached_property
    def _destinations(self) -> Tensor:
        """The padded row of each packed one, [num_tokens]."""
        within = torch.arange(self.num_tokens, device=self.cu_seqlens.device) - self.starts
        return self._sequence * self.max_seqlen + within
