"""How large a step may be. On a GPU only listed sizes run, each of which has its own graph.

A step of a listed size is padded with idle rows; prefills are never padded, since the scheduler
starts as many as a size says and leaves the others for the next step. Where nothing is listed (on a
CPU) a step has exactly the rows it needs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

SAMPLER_PARTS = ("greedy", "draw", "top_k", "top_p", "min_p", "penalty")
DRAW_ONLY = frozenset({"draw"})
EVERY_PART = frozenset(SAMPLER_PARTS)
_PREFILL_SIZES = (1, 2, 4, 8, 16)
"""Prefills of a step that has a graph. More of them run without: their products alone (16 suffixes
of 24 tokens are 400 rows) take the GPU longer than launching takes the host. An estimate: no GPU
was at hand."""


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What a step is compiled and captured for.

    Attributes:
        num_rows: decode rows, idle ones included; 0: prefills alone.
        num_prefills: suffixes computed beside them.
        parts: what the sampler must be able to do, of SAMPLER_PARTS.
        max_private_len: bound on the private keys of a row.
    """

    num_rows: int
    num_prefills: int
    parts: frozenset[str]
    max_private_len: int


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The sizes a step may have.

    Attributes:
        rows: ascending numbers of decode rows, the last enough for every slot; None: any number.
        prefills: ascending numbers of prefills that have graphs; more may run, without one.
        max_private_len: what a step of a listed size is bounded by.
    """

    rows: tuple[int, ...] | None
    prefills: tuple[int, ...]
    max_private_len: int

    @classmethod
    def exact(cls) -> StepSizes:
        """No list: a step has the rows it needs."""
        return cls(rows=None, prefills=(), max_private_len=0)

    @classmethod
    def listed(
        cls, num_slots: int, max_prefills: int, max_private_len: int, *, one: bool = False
    ) -> StepSizes:
        """Sizes up to `num_slots` rows and `max_prefills` prefills.

        Args:
            one: a single size of each, so that a row's neighbours never change a shape.
        """
        if one:
            return cls(rows=(num_slots,), prefills=(), max_private_len=max_private_len)
        # Below 64 rows a step takes as long as its weights take to read, whatever the size; above,
        # matrix products come in tiles of 32 rows or more.
        sizes = [1, 2, 4, 8, 16, 32, *range(64, 257, 32), *range(320, num_slots, 64)]
        rows = (*(size for size in sizes if size < num_slots), num_slots)
        prefills = tuple(size for size in _PREFILL_SIZES if size <= max_prefills)
        return cls(rows=rows, prefills=prefills, max_private_len=max_private_len)

    def fit(self, num_rows: int) -> int:
        """Rows that a step for `num_rows` slots runs over; 0 for 0."""
        if self.rows is None or num_rows == 0:
            return num_rows
        return self.rows[bisect_left(self.rows, num_rows)]

    def startable(self, count: int) -> int:
        """The most prefills, of `count` that could start, that a step takes."""
        if not self.prefills or count > self.prefills[-1] or count == 0:
            return count
        return self.prefills[bisect_right(self.prefills, count) - 1]

    def shape(
        self, num_rows: int, num_prefills: int, parts: frozenset[str], max_private_len: int
    ) -> StepShape:
        """The step that serves so many slots and prefills."""
        if self.rows is None:
            return StepShape(
                num_rows=num_rows,
                num_prefills=num_prefills,
                parts=parts,
                max_private_len=max_private_len,
            )
        return StepShape(
            num_rows=self.fit(num_rows),
            num_prefills=num_prefills,
            parts=DRAW_ONLY if parts <= DRAW_ONLY else EVERY_PART,
            max_private_len=self.max_private_len,
        )

    def shapes(self) -> Iterator[StepShape]:
        """Every step that is captured, the largest first: the later ones find their memory."""
        for num_rows in reversed(self.rows or ()):
            for num_prefills in (*reversed(self.prefills), 0):
                for parts in (EVERY_PART, DRAW_ONLY):
                    yield self.shape(num_rows, num_prefills, parts, 0)
