"""What a load test saw, a line of JSON a call: written by `locustfile.py`, read by `load_sweep.py`.

The first line is {"run": ..}: the options and when the load began. The last is {"generator": ..}:
what the generator took itself. Moments are seconds of the monotonic clock, which all processes of a
machine share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFUSALS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""Statuses of calls that the server would not take."""
MOST_LAG_SECONDS, MOST_GENERATOR_SHARE = 0.05, 0.85
"""From where a generator measures itself: its calls' lag at p99, and its share of a core."""


@dataclass(kw_only=True)
class CallRecord:
    """One call, from when it was meant to begin.

    Attributes:
        rpc: its method's name.
        intended: when it was due; in a closed loop when it began. Latencies count from here.
        began, ended: when it was sent, and when its end was here.
        first: when its first text, token or rows were here; None without.
        gaps: seconds between messages that brought any.
        code, reason: its gRPC status, and Gloss' reason beside one that is not OK.
        explanations: explanations it brought without an error; failed: those with one.
        tokens: tokens of both.
    """

    rpc: str
    intended: float
    began: float
    ended: float = 0.0
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    code: str = "OK"
    reason: str = ""
    explanations: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def is_refusal(self) -> bool:
        """Whether the server would not take it."""
        return self.code in REFUSALS

    @property
    def lag(self) -> float:
        """How late the generator was to send it, seconds."""
        return self.began - self.intended

    @property
    def end_to_end(self) -> float:
        """From when it was due to its end, seconds."""
        return self.ended - self.intended

    @property
    def time_to_first(self) -> float | None:
        """From when it was due to its first text, seconds."""
        return None if self.first is None else self.first - self.intended

    def line(self) -> str:
        """The record as a line; moments in microseconds' precision."""
        values = {
            **self.__dict__,
            "intended": round(self.intended, 6),
            "began": round(self.began, 6),
            "ended": round(self.ended, 6),
            "first": None if self.first is None else round(self.first, 6),
            "gaps": [round(gap, 6) for gap in self.gaps],
        }
        return json.dumps(values) + "\n"


@dataclass(frozen=True, kw_only=True)
class LoadRecords:
    """A file of records.

    Attributes:
        run: the first line's; generator: the last one's, empty while there is none.
        calls: in the order in which they ended.
    """

    run: dict[str, Any]
    generator: dict[str, Any]
    calls: tuple[CallRecord, ...]


def read_records(path: Path) -> LoadRecords:
    """Read a file, also one that is still written: a line that is not whole yet is left out.

    Raises:
        ValueError: a file without its first line.
    """
    return parse_records(line for line in path.open() if line.endswith("\n"))


def parse_records(lines: Iterable[str]) -> LoadRecords:
    """The records of a file's lines.

    Raises:
        ValueError: the first line is another.
    """
    run: dict[str, Any] | None = None
    generator: dict[str, Any] = {}
    calls = []
    for line in lines:
        values = json.loads(line)
        if run is None:
            run = values.get("run")
            if run is None:
                raise ValueError(f"records: got {line[:80]!r} first, expected the run's line")
        elif "generator" in values:
            generator = values["generator"]
        else:
            calls.append(CallRecord(**values))
    if run is None:
        raise ValueError("records: got no line, expected the run's first")
    return LoadRecords(run=run, generator=generator, calls=tuple(calls))
