"""Readings on their way to the front, so many bytes of rows with each step.

A text of 4,096 tokens has 58 MB of rows of 3,584 values. In one message they hold up everybody: the
engine until they are sent, the front while it unpacks them. So a long text's go in parts, and steps
come between. How much waits is bounded by what the front lets into the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gloss_engine.text_request import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPart:
    """Some of a reading's rows; parts of a reading come in their order, one a step.

    Attributes:
        reading: with these rows alone; its token ids are all of the text's.
        is_last: whether nothing of it follows.
    """

    reading: Reading
    is_last: bool


class ReadingParts:
    """What has been read and not been sent.

    Args:
        most_bytes: of rows that go with a step; a single one may have more.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._readings = deque[Reading]()
        self._finished: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._readings or self._finished)

    def add(self, readings: Iterable[Reading]) -> None:
        """What a step has read."""
        self._readings.extend(readings)

    def drop(self, request_id: str) -> None:
        """A capture is cancelled: nobody wants what it has read."""
        self._readings = deque(one for one in self._readings if one.request_id != request_id)

    def take(self) -> list[ReadingPart]:
        """What goes with the next step, the oldest first."""
        parts: list[ReadingPart] = []
        room = self._most_bytes
        while self._readings:
            reading = self._readings[0]
            num_rows, num_bytes = len(reading.positions), reading.activations.nbytes
            num_fit = num_rows
            if num_bytes > max(room, 0):
                num_fit = max(room * num_rows // num_bytes, 0 if parts else 1)
            if num_fit < num_rows:
                if num_fit:
                    parts.append(ReadingPart(reading=_rows(reading, 0, num_fit), is_last=False))
                    self._readings[0] = _rows(reading, num_fit, num_rows)
                break
            parts.append(ReadingPart(reading=self._readings.popleft(), is_last=True))
            room -= num_bytes
        return parts

    def told(self, finished: Iterable[str]) -> list[str]:
        """Of requests that have finished by now those of which nothing is left to send, which the
        front may hear of."""
        self._finished += finished
        sending = {reading.request_id for reading in self._readings}
        told = [name for name in self._finished if name not in sending]
        self._finished = [name for name in self._finished if name in sending]
        return told


def _rows(reading: Reading, begin: int, end: int) -> Reading:
    return replace(
        reading,
        positions=reading.positions[begin:end],
        activations=reading.activations[begin:end],
        norms=reading.norms[begin:end],
        is_special=reading.is_special[begin:end],
    )
