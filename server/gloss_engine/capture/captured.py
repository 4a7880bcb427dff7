"""What a tap captured: activations with their norms, and where each of them stands.

All of it is on the device of the block. Only the host asks for a copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.errors import TapError


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one forward pass gave, or several of them.

    Attributes:
        raw: [n, d_model] float32.
        norms: [n] float32.
        places: [4, n] int64: forward pass, sequence, position, token id.
    """

    raw: Tensor
    norms: Tensor
    places: Tensor


class Captured:
    """The rows that a tap captured so far, in the order of passes, sequences and positions.

    Every column is a tensor on the device of the block, with an entry for each row. They may be
    read within the `with` block, after any pass, and behind it.

    Raises:
        TapError: on reading before the first pass.
    """

    def __init__(self) -> None:
        self._passes: list[Rows] = []
        self._num_forwards = 0

    @property
    def activations(self) -> Tensor:
        """[n, d_model] float32: the output of the block, an exact copy up to 32 bits."""
        return self._rows().raw

    @property
    def norms(self) -> Tensor:
        """[n] float32 L2 norms; NaN or Inf where a row holds one or its squares overflow."""
        return self._rows().norms

    @property
    def is_usable(self) -> Tensor:
        """[n] bool: whether a row has a direction: it is finite and not zero."""
        norms = self.norms
        return norms.isfinite() & (norms > 0)

    @property
    def forwards(self) -> Tensor:
        """[n] int64: which pass, from 0."""
        return self._rows().places[0]

    @property
    def sequences(self) -> Tensor:
        """[n] int64: which sequence of the pass's batch, from 0."""
        return self._rows().places[1]

    @property
    def positions(self) -> Tensor:
        """[n] int64: where in its text, from 0; padding does not count, cached tokens do."""
        return self._rows().places[2]

    @property
    def token_ids(self) -> Tensor:
        """[n] int64: the token there, -1 where the pass was given embeddings in place of ids."""
        return self._rows().places[3]

    @property
    def num_forwards(self) -> int:
        """Passes so far, those that nothing was wanted of included."""
        return self._num_forwards

    def __len__(self) -> int:
        """Rows so far."""
        return sum(rows.raw.shape[0] for rows in self._passes)

    def add(self, rows: Rows) -> None:
        """Take the rows of one more pass."""
        self._passes.append(rows)
        self._num_forwards += 1

    def _rows(self) -> Rows:
        """All rows in one piece."""
        if not self._passes:
            raise TapError(
                "captured",
                got="no forward pass yet",
                expected="one or more",
                fix="Run the model within the with block before reading.",
            )
        if len(self._passes) > 1:
            whole = Rows(
                raw=torch.cat([rows.raw for rows in self._passes]),
                norms=torch.cat([rows.norms for rows in self._passes]),
                places=torch.cat([rows.places for rows in self._passes], dim=1),
            )
            self._passes = [whole]
        return self._passes[0]
