"""Passes over texts on the device: queued here, and read when they have run.

A pass that the device's memory does not suffice for is run by halves: half of its texts each, or
half of the tokens of a single one. The texts of a half that still does not fit fail, the others are
read. Which texts go together is the queue's business, what becomes of them the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from gloss_engine.device_memory import DeviceMemory
from gloss_engine.target.events import ReadText
from gloss_engine.target.reader import CapturedRows, TextReader
from gloss_engine.target.reading_queue import CAPTURE, Job, Pass, make_long
from gloss_engine.transfer import Arriving


@dataclass(frozen=True, kw_only=True)
class LaunchedPass:
    """A pass over texts on its way.

    Attributes:
        jobs: those that it finishes; a pass over a part of a long text finishes none.
        num_tokens: what it runs over.
        rows: their activations, on the device.
        norms: theirs, on the way to the host.
        raw: the activations too, where somebody captures; else None.
        failed: those that there was no memory for.
    """

    jobs: list[Job]
    num_tokens: int
    rows: CapturedRows | None = None
    norms: Arriving | None = None
    raw: Arriving | None = None
    failed: list[Job] = field(default_factory=list)


class Passes:
    """Runs passes.

    Args:
        reader: reads texts.
        memory: the device's.
    """

    def __init__(self, reader: TextReader, memory: DeviceMemory) -> None:
        self.reader, self._memory = reader, memory

    def launch(self, taken: Pass) -> LaunchedPass:
        """Queue a pass on the device."""
        self.reader.reserve([job.text for job in taken.jobs if job.kind != CAPTURE])
        failed: list[Job] = []
        if taken.long is not None:
            parts = self._read_chunk(taken, failed)
        else:
            parts = self._read_packed(taken, failed)
        launched: LaunchedPass | None = None
        if parts:
            launched = self._memory.attempt_twice(partial(_sent, taken, parts, failed))
            if launched is None:
                failed = taken.jobs
        for job in failed:
            self.reader.release(job.text.places)
            job.text.places = []
        return launched or LaunchedPass(jobs=[], num_tokens=taken.num_tokens, failed=failed)

    def read(self, launched: LaunchedPass) -> list[ReadText]:
        """The texts that a pass has read and that are still wanted; waits for them."""
        if launched.rows is None or launched.norms is None:
            return []
        norms = launched.norms.wait().tolist()
        on_host = None if launched.raw is None else launched.raw.wait()
        found, at = [], 0
        for job in launched.jobs:
            end = at + len(job.text.positions)
            if job.dropped or (job.watch is not None and job.watch.ended):
                self.reader.release(job.text.places)
            else:
                found.append(
                    ReadText(
                        job=job,
                        raw=launched.rows.raw[at:end],
                        norms=norms[at:end],
                        on_host=None if on_host is None else on_host[at:end],
                    )
                )
            at = end
        return found

    def _read_packed(self, taken: Pass, failed: list[Job]) -> list[CapturedRows]:
        """What whole texts have at their positions, of all that did not fail."""
        read = partial(self.reader.read_packed, layer_index=taken.jobs[0].layer_index)
        rows = self._memory.attempt(partial(read, [job.text for job in taken.jobs]))
        if rows is not None:
            return [rows]
        if len(taken.jobs) == 1:
            make_long(taken.jobs[0])
            return self._read_halves(taken, failed)
        half, parts = len(taken.jobs) // 2, []
        for jobs in (taken.jobs[:half], taken.jobs[half:]):
            rows = self._memory.attempt(partial(read, [job.text for job in jobs]))
            if rows is None:
                failed += jobs
            else:
                parts.append(rows)
        return parts

    def _read_chunk(self, taken: Pass, failed: list[Job]) -> list[CapturedRows]:
        """The same of a long text: nothing before its last chunk."""
        if self._chunk(taken.jobs[0], taken.num_tokens):
            return _found(taken.jobs[0])
        return self._read_halves(taken, failed)

    def _read_halves(self, taken: Pass, failed: list[Job]) -> list[CapturedRows]:
        """The same by halves of the tokens; a single one is run once more."""
        job, half = taken.jobs[0], taken.num_tokens // 2
        for num_tokens in filter(None, (half, taken.num_tokens - half)):
            if not self._chunk(job, num_tokens):
                failed.append(job)
                return []
        return _found(job)

    def _chunk(self, job: Job, num_tokens: int) -> bool:
        """Read the next tokens of a long text; whether there was memory for it."""
        assert job.long is not None
        return self._memory.attempt(partial(self.reader.read_chunk, job.long, num_tokens)) or False


def _found(job: Job) -> list[CapturedRows]:
    """What all chunks of a text have found, once it is read."""
    assert job.long is not None
    return job.long.found if job.long.is_read else []


def _sent(taken: Pass, parts: list[CapturedRows], failed: list[Job]) -> LaunchedPass:
    """The rows of a pass, in the order of its texts, on their way to the host."""
    jobs = [job for job in taken.jobs if job not in failed]
    rows = parts[0]
    if len(parts) > 1:
        raw, norms = ([getattr(part, name) for part in parts] for name in ("raw", "norms"))
        rows = CapturedRows(raw=torch.cat(raw), norms=torch.cat(norms))
    return LaunchedPass(
        jobs=jobs,
        num_tokens=taken.num_tokens,
        rows=rows,
        norms=Arriving(rows.norms),
        raw=Arriving(rows.raw) if any(job.kind == CAPTURE for job in jobs) else None,
        failed=failed,
    )
