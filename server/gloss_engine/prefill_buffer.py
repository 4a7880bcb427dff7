"""The AV's prefill buffer: activations on the device at their injection norm, for their prefill.

Every row gets there through `hook_gather`, whether the activation came from a caller or was read
off a target's residual stream on the device: so both are injected alike. A captured row stands at a
place that was reserved for it; an activation without a place is written when its prefill starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gloss_engine.models.decoder import Decoder
from gloss_engine.program import AvProgram
from gloss_engine.transfer import send_rows


class PrefillBuffer:
    """Rows that prefills inject.

    Args:
        decoder: the AV.
        program: how it takes activations.
        max_prefills: most suffixes of one step.
        num_places: rows that captures may hold between their target's step and their prefill.

    Attributes:
        rows: [1 + max_prefills + num_places, d_model], zeros at first. Row 0 belongs to nobody and
            absorbs what has no place; the next `max_prefills` are for activations written as their
            prefill starts; the others are the places. In the AV's type at the injection norm, or,
            where vectors are added to the residual stream, float32 at a norm of 1.
        injection_scale: the L2 norm of a row that is written.
    """

    def __init__(
        self, decoder: Decoder, program: AvProgram, *, max_prefills: int, num_places: int = 0
    ) -> None:
        assert max_prefills >= 1 and num_places >= 0
        replaces = program.injection_mode == "replace"
        self.operations, self.max_prefills = decoder.operations, max_prefills
        self.injection_scale = program.injection_scale if replaces else 1.0
        self.rows = torch.zeros(
            1 + max_prefills + num_places,
            decoder.spec.d_model,
            dtype=decoder.dtype if replaces else torch.float32,
            device=decoder.device,
        )
        self._free = list(range(max_prefills + num_places, max_prefills, -1))
        self._reserved: set[int] = set()

    @property
    def num_reserved(self) -> int:
        """Places that somebody holds."""
        return len(self._reserved)

    def reserve(self, count: int) -> list[int]:
        """`count` places for rows to be captured; 0 for each that finds none free."""
        places = [self._free.pop() if self._free else 0 for _ in range(count)]
        self._reserved.update(place for place in places if place)
        return places

    def release(self, places: Iterable[int]) -> None:
        """Give places back; 0 is nobody's, each other one must be reserved.

        Their rows may still be read by a step that has been queued: whoever gets them next writes
        them later on the same stream.
        """
        for place in places:
            if place:
                assert place in self._reserved, f"place {place} is not reserved"
                self._reserved.remove(place)
                self._free.append(place)

    def write(self, activations: Tensor, places: Tensor) -> None:
        """Bring raw activations to their norm.

        Args:
            activations: [m, d_model] float32 on the device.
            places: [m] int64 rows of the buffer, all different but for 0.
        """
        every = torch.arange(activations.shape[0], device=self.rows.device)
        self.operations.hook_gather(
            activations,
            every,
            buffer=self.rows,
            buffer_rows=places,
            injection_scale=self.injection_scale,
        )

    def write_starting(self, activations: Sequence[Tensor]) -> list[int]:
        """Write the activations without a place of a step's prefills.

        Args:
            activations: at most `max_prefills`, each [d_model] float32 on the host or the device.

        Returns:
            Their rows; they are free again once that step has been queued.
        """
        count, device = len(activations), self.rows.device
        assert count <= self.max_prefills
        if count == 0:
            return []
        self.write(send_rows(activations, device), torch.arange(1, count + 1, device=device))
        return list(range(1, count + 1))

    def warm_up(self) -> None:
        """Compile what writing rows needs."""
        width = self.rows.shape[1]
        nobody = torch.zeros(1, dtype=torch.int64, device=self.rows.device)
        self.write(torch.zeros(1, width, device=self.rows.device), nobody)
