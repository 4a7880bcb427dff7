"""The runs in flight: each with what it has taken, the name others may join it by, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from gloss_server.front.call_error import CallError
from gloss_server.front.permit import Permit
from gloss_server.front.result_memory import ResultMemory, RunName
from gloss_server.front.run import Run
from gloss_server.front.telemetry import Telemetry
from gloss_server.link.messages import EngineRequest
from gloss_server.link.supervisor import Supervisor


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run in flight.

    Attributes:
        run: what has come of it.
        permit: what it has taken; None: another's permit covers it.
        name: what others may join it by; None: nobody can.
    """

    run: Run
    permit: Permit | None
    name: RunName | None


class OpenRuns:
    """Runs by number.

    Args:
        memory: finds them by request_id.
        telemetry: hears how long they took.

    Attributes:
        supervisor: the engine; set before anything else.
    """

    def __init__(self, memory: ResultMemory, telemetry: Telemetry) -> None:
        self._memory, self._telemetry = memory, telemetry
        self._open: dict[int, OpenRun] = {}
        self._numbers = count(1)
        self.supervisor: Supervisor | None = None

    def __len__(self) -> int:
        return len(self._open)

    def next_id(self) -> int:
        """A number for the next run."""
        return next(self._numbers)

    def get(self, run_id: int | str) -> OpenRun | None:
        """A run by its number, or by that number as text; None: it has ended."""
        return self._open.get(int(run_id))

    def start(
        self,
        run: Run,
        request: EngineRequest,
        permit: Permit | None,
        name: RunName | None = None,
        digest: bytes = b"",
    ) -> None:
        """Send a run's request to the engine; under a name, others may join it from now on."""
        if name is not None:
            self._memory.add(name, digest, run)
        self._open[run.run_id] = OpenRun(run=run, permit=permit, name=name)
        assert self.supervisor is not None
        self.supervisor.submit(run.run_id, request, run.trace)

    @contextmanager
    def reading(self, run: Run) -> Iterator[None]:
        """Someone reads a run while the body runs; it is given up after the last."""
        run.num_readers += 1
        try:
            yield
        finally:
            run.num_readers -= 1
            if run.num_readers == 0:
                self.give_up(run.run_id, CallError("CANCELLED", "the call was given up"))

    def give_up(self, run_id: int, failure: CallError) -> None:
        """Take a run out of the engine, and end it; nothing happens to one that has ended."""
        if run_id in self._open:
            assert self.supervisor is not None
            self.supervisor.cancel(run_id)
            self.end(run_id, time.monotonic(), failure)

    def end_all(self, failure: CallError) -> None:
        """End every run in flight; the engine is not told."""
        now = time.monotonic()
        for run_id in list(self._open):
            self.end(run_id, now, failure)

    def end(self, run_id: int, at: float, failure: CallError | None = None) -> None:
        """A run has ended; nothing happens to one that has before."""
        opened = self._open.pop(run_id, None)
        if opened is None:
            return
        run = opened.run
        if opened.permit is not None:
            opened.permit.close(run.num_tokens + run.num_target_tokens)
            opened.permit.run_ended(at, failure is None)
        run.end(at, failure)
        if opened.name is not None:
            self._memory.ended(opened.name, is_kept=failure is None and run.is_settled)
        if failure is None and run.explains:
            self._telemetry.run_finished(at - run.arrived, run.method, run.priority)
