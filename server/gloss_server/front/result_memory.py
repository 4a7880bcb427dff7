"""The same request_id twice: one run, one result.

A run is remembered under its id from admission until a while after its end. Whoever brings the id
again with the same content joins it; with other content he is refused. A run that ended because of
the server, or of which something failed because of it, is forgotten at once, so that a retry runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gloss_server.front.call_error import CallError
from gloss_server.front.run import Run


class RunName(NamedTuple):
    """What others may join a run by.

    Attributes:
        owner: client whose request_ids are its own; empty: they are everybody's.
        request_id: the caller's name for the request.
    """

    owner: str
    request_id: str


@dataclass(kw_only=True)
class _Memory:
    digest: bytes
    run: Run
    num_bytes: int = 0


class ResultMemory:
    """Runs by request_id.

    Args:
        seconds: how long an ended run is remembered; 0: only while it runs.
        max_bytes: of ended runs; beyond, the oldest are forgotten first.
        clock: monotonic, seconds.
    """

    def __init__(
        self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._max_bytes, self._clock = seconds, max_bytes, clock
        self._memories: dict[RunName, _Memory] = {}
        self._ended: dict[RunName, _Memory] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._memories)

    def find(self, name: RunName, digest: bytes) -> Run | None:
        """The run to join, or None.

        Args:
            digest: of the method and the request's content.

        Raises:
            CallError: the id belongs to another request.
        """
        self._forget_old()
        memory = self._memories.get(name)
        if memory is None:
            return None
        if memory.digest != digest:
            raise CallError(
                "REQUEST_ID_REUSED",
                f"request_id: {name.request_id[:64]!r} named another request within the last "
                f"{self._seconds:g} s; every request needs an id of its own",
                "request_id",
            )
        return memory.run

    def add(self, name: RunName, digest: bytes, run: Run) -> None:
        """Remember a run that begins."""
        self._memories[name] = _Memory(digest=digest, run=run)

    def ended(self, name: RunName, is_kept: bool) -> None:
        """A remembered run has ended; one that is not kept is forgotten."""
        memory = self._memories[name]
        if not is_kept or self._seconds == 0:
            del self._memories[name]
            return
        memory.num_bytes = memory.run.num_bytes
        self.num_bytes += memory.num_bytes
        self._ended[name] = memory
        self._forget_old()

    def _forget_old(self) -> None:
        """Forget what is too old or too much, oldest first."""
        earliest = self._clock() - self._seconds
        while self._ended:
            name, memory = next(iter(self._ended.items()))
            assert memory.run.ended_at is not None
            if memory.run.ended_at >= earliest and self.num_bytes <= self._max_bytes:
                return
            del self._ended[name], self._memories[name]
            self.num_bytes -= memory.num_bytes
