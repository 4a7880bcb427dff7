"""What an output of explanations holds so far, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gloss_server.files.activation_chunk import BoolArray


@dataclass(kw_only=True)
class Done:
    """What an output holds so far.

    Attributes:
        num_rows, num_samples: what it will hold.
        marks: [num_rows, num_samples] explanations that are there.
        num_failed: of them, those with an error.
        num_scored, fve_sum: of them, those with an FVE, and the sum of it.
    """

    num_rows: int
    num_samples: int
    num_failed: int = 0
    num_scored: int = 0
    fve_sum: float = 0.0
    marks: BoolArray = field(init=False)

    def __post_init__(self) -> None:
        self.marks = np.zeros((self.num_rows, self.num_samples), dtype=np.bool_)

    @property
    def count(self) -> int:
        """Explanations that are there."""
        return int(np.count_nonzero(self.marks))

    @property
    def mean_fve(self) -> float | None:
        """Of those with an FVE; None: there is none."""
        return self.fve_sum / self.num_scored if self.num_scored else None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return bool(self.marks.all())

    def mark(self, index: object, sample: object, failed: bool, fve: float | None) -> bool:
        """Note an explanation; False where it cannot be one of this run, or is there twice."""
        if not isinstance(index, int) or not isinstance(sample, int):
            return False
        if not (0 <= index < self.num_rows and 0 <= sample < self.num_samples):
            return False
        if self.marks[index, sample]:
            return False
        self.marks[index, sample] = True
        self.num_failed += failed
        if fve is not None:
            self.num_scored += 1
            self.fve_sum += fve
        return True
