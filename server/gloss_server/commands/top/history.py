"""What `gloss top` has seen of a server since it began, and how it draws it: a line of bars.

The bars are block characters, which show as much without colour.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from gloss_api.v1 import gloss_pb2

_MOST = 600
"""Ten minutes, at a page a second."""
_BARS = "▁▂▃▄▅▆▇█"


class History:
    """Figures of the last minutes, one of each page."""

    def __init__(self) -> None:
        self._tokens_per_second: deque[float | None] = deque(maxlen=_MOST)
        self._first_token_p95: deque[float | None] = deque(maxlen=_MOST)

    @property
    def tokens_per_second(self) -> list[float | None]:
        """Generated."""
        return list(self._tokens_per_second)

    @property
    def first_token_p95(self) -> list[float | None]:
        """Seconds; None where no call began within the last minute."""
        return list(self._first_token_p95)

    def add(self, stats: gloss_pb2.GetStatsResponse) -> None:
        """Take what a server has just said."""
        found = [each.p95 for each in stats.latencies if each.name == "first_token"]
        self._tokens_per_second.append(stats.tokens_per_second)
        self._first_token_p95.append(found[0] if found else None)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Values as bars, the newest last; a gap for what is not known.

    Args:
        values: what is drawn, from 0 to the largest.
        width: characters there are; a bar shows the largest of the values it stands for.
    """
    each = max(math.ceil(len(values) / max(width, 1)), 1)
    ends = range(len(values), 0, -each)
    parts = [known(values[max(end - each, 0) : end]) for end in reversed(ends)]
    most = max((max(part) for part in parts if part), default=0.0)
    return "".join(_bar(max(part), most) if part else " " for part in parts)


def known(values: Sequence[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and 0 <= value < math.inf]


def _bar(value: float, most: float) -> str:
    return _BARS[round(value / most * (len(_BARS) - 1)) if most else 0]
