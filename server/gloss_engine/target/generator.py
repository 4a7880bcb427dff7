"""Lets the target go on from prompts: slots, pages, and one step at a time for all that are due.

A Watch holds its slot and the pages of its whole length from before its prompt is read until it has
ended, so nothing is ever preempted. Which activations a step captures is settled when it is
launched, also who is skipped because too many of his are waiting; it counts, and is said, when the
step has been read, since only then it is known that the sequence had not ended before.

A step that the device's memory does not suffice for is run once more by halves of its rows, and the
Watches of a half that still does not fit fail.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gloss_engine.device_memory import DeviceMemory
from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import clear_pages
from gloss_engine.models.batch import PagedCache, Prefix
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.runner import StepResult, read_report
from gloss_engine.slots import PAUSED
from gloss_engine.step_graphs import StepGraphs
from gloss_engine.step_shape import DRAW_ONLY, StepShape, StepSizes
from gloss_engine.target.step import TargetStep
from gloss_engine.target.watch import Watch
from gloss_engine.transfer import Arriving, send
from gloss_kernels import Finish


@dataclass(frozen=True, kw_only=True)
class LaunchedRow:
    """A sequence in a launched step.

    Attributes:
        watch: whose.
        slot: its row.
        launch: which of its launches.
        captured: index of its activation among the step's captured ones; None: not captured.
        place: of it in the AV's prefill buffer, 0: none.
        skipped: it would have been captured, but too many were waiting.
    """

    watch: Watch
    slot: int
    launch: int
    captured: int | None
    place: int
    skipped: bool


@dataclass(frozen=True, kw_only=True)
class LaunchedTokens:
    """A step of the target on its way.

    Attributes:
        rows: its sequences.
        report: the slots' report.
        raw: [n, d_model] float32 captured activations, on the device.
        norms: [n] their norms, on their way to the host.
        failed: Watches that there was no memory for; they have ended.
    """

    rows: list[LaunchedRow]
    report: Arriving
    raw: Tensor
    norms: Arriving
    failed: list[Watch]

    def result(self) -> tuple[StepResult, list[float]]:
        """What was drawn, and the captured norms; waits for them."""
        return read_report(self.report.wait()), self.norms.wait().tolist()


@dataclass(frozen=True, kw_only=True)
class FailedStep:
    """A step of the target of which nothing can be read.

    Attributes:
        rows: its sequences; all have ended.
        failed: their Watches, and those that did not get so far.
    """

    rows: list[LaunchedRow]
    failed: list[Watch]


class Generator:
    """Generates with one target.

    Args:
        step: what runs.
        cache: its pages.
        allocator: which of them are free.
        sizes: the shapes of its steps.
        buffer: the AV's prefill buffer.
        memory: the device's; None: nobody else asks for it.
    """

    def __init__(
        self,
        step: TargetStep,
        cache: PagedCache,
        allocator: BlockAllocator,
        sizes: StepSizes,
        buffer: PrefillBuffer,
        memory: DeviceMemory | None = None,
    ) -> None:
        self._memory = memory or DeviceMemory(step.decoder.device)
        self.step, self.cache, self.allocator, self.sizes = step, cache, allocator, sizes
        self.buffer, self.slots = buffer, step.slots
        self.graphs = StepGraphs(step, sizes)
        self.waiting: deque[Watch] = deque()
        self.running: dict[int, Watch] = {}
        self._free_slots = list(range(self.slots.limits.num_slots))
        self._idle: list[int] = []
        self._starting: dict[Watch, Prefix | None] = {}
        self._paused: set[int] = set()

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of a Watch; its slot holds one more, for the last one's activation."""
        return self.slots.limits.max_new_tokens - 1

    @property
    def num_watches(self) -> int:
        """Watches that run or wait for a slot."""
        return len(self.running) + len(self.waiting)

    @property
    def num_generating(self) -> int:
        """Watches whose prompt has been read."""
        return len(self._begun())

    @property
    def is_speaking(self) -> bool:
        """Whether a Watch runs whose prompt has been read."""
        return any(watch.num_launched for watch in self.running.values())

    def add(self, watch: Watch) -> None:
        """Queue a Watch for a slot and pages."""
        self.waiting.append(watch)

    def admit(self) -> list[Watch]:
        """Give slots and pages to those that wait; their prompts are to be read now."""
        admitted = []
        while self.waiting and self._free_slots:
            watch = self.waiting[0]
            num_pages = self.allocator.pages_for(watch.num_keys)
            if num_pages > self.allocator.num_free:
                break
            watch.pages = self.allocator.allocate(num_pages)
            watch.slot = heapq.heappop(self._free_slots)
            self.running[watch.slot] = watch
            admitted.append(self.waiting.popleft())
        return admitted

    def start(self, watch: Watch, prefix: Prefix | None) -> None:
        """Its prompt has been read, up to the last token: it runs from the next step on.

        Args:
            prefix: keys and values of that part, None for a prompt of one token.
        """
        self._starting[watch] = prefix

    def due(self, now: float) -> list[Watch]:
        """Those whose next step may run now."""
        return [w for w in self._begun() if not w.ended and not w.is_launched and w.due <= now]

    @torch.inference_mode()
    def launch(self, now: float) -> LaunchedTokens | FailedStep:
        """Queue a step of all that are due; there is one at least."""
        due = self.due(now)
        failed = self._change_rows(due)
        due = [watch for watch in due if not watch.ended]
        rows: list[LaunchedRow] = []
        for watch in due:
            rows.append(self._row(watch, sum(row.captured is not None for row in rows)))
        failed += self._run(due, rows)
        launched = self._memory.attempt_twice(partial(self._sent, rows, failed))
        if launched is None:
            # They have their tokens, and nobody will ever know which.
            failed += [watch for watch in due if watch not in failed]
        for watch in due:
            watch.num_launched += 1
            watch.pace(now)
        for watch in failed:
            self.retire(watch)
        return launched or FailedStep(rows=rows, failed=failed)

    def retire(self, watch: Watch) -> None:
        """Free what a Watch holds, running or not; of one that has left already, nothing."""
        watch.ended = True
        if watch in self.waiting:
            self.waiting.remove(watch)
        if self.running.get(watch.slot) is watch:
            del self.running[watch.slot]
            heapq.heappush(self._free_slots, watch.slot)
            self.allocator.free(watch.pages)
            self._idle.append(watch.slot)
        self._starting.pop(watch, None)

    def warm_up(self) -> None:
        """Compile and capture the steps; nothing may be running."""
        if self.sizes.rows is not None:
            self.slots.warm_up()
            self.graphs.warm_up()

    def _begun(self) -> list[Watch]:
        return [w for w in self.running.values() if w.num_launched or w in self._starting]

    def _change_rows(self, due: list[Watch]) -> list[Watch]:
        """Write the rows that change hands, and who waits in this step; who failed, and ended."""
        if not self._memory.attempt_twice(partial(self._make_room, due)):
            # It takes some kilobytes. Who holds which row is lost with it.
            self.slots.vacate_all()
            failed = self._begun()
        else:
            failed = [
                watch
                for watch, prefix in self._starting.items()
                if not self._memory.attempt_twice(partial(self._begin, watch, prefix))
            ]
        for watch in failed:
            self.retire(watch)
        self._starting.clear()
        return failed

    def _make_room(self, due: list[Watch]) -> bool:
        """Rows that nobody holds any more, and rows that wait or go on."""
        if self._idle:
            self.slots.vacate(self._idle)
            self._paused -= set(self._idle)
            self._idle = []
        # Who is paused has been read up to there before he goes on: his row has not ended unseen.
        runs = {watch.slot for watch in due}
        begun = {slot for slot, w in self.running.items() if w.num_launched and not w.is_launched}
        waits = begun - runs
        if waits - self._paused:
            self.slots.set_codes(sorted(waits - self._paused), PAUSED)
        if self._paused & runs:
            self.slots.set_codes(sorted(self._paused & runs), int(Finish.RUNNING))
        self._paused = waits
        return True

    def _begin(self, watch: Watch, prefix: Prefix | None) -> bool:
        """Write a Watch's pages and its row."""
        if self.step.decoder.operations.backend == "reference":
            clear_pages(self.cache, watch.pages)
        if prefix is not None:
            _store(prefix, self.cache, watch.pages)
        last = send([watch.prompt_ids[-1]], self.slots.device)
        self.slots.start([watch], last, [len(watch.prompt_ids) - 1])
        return True

    def _run(self, due: list[Watch], rows: list[LaunchedRow]) -> list[Watch]:
        """Queue a step; the Watches that there was no memory for."""
        if not due:
            return []
        bound = max(watch.position(watch.num_launched) for watch in due) + 1
        shape = self.sizes.shape(
            1 + max(watch.slot for watch in due), 0, self.slots.parts() or DRAW_ONLY, bound
        )
        if self._memory.attempt(partial(self._step, rows, shape)):
            return []
        failed = []
        for part, first in self.graphs.parts(shape):
            if not self._memory.attempt(partial(self._step, rows, part, first)):
                failed += [w for w in due if first <= w.slot < first + part.num_rows]
        return failed

    def _step(self, rows: list[LaunchedRow], shape: StepShape, first: int = 0) -> bool:
        self._set_places(rows)
        self.graphs.run(shape, first)
        return True

    def _sent(self, rows: list[LaunchedRow], failed: list[Watch]) -> LaunchedTokens:
        """A step that has run, on its way to the host."""
        chosen = send([row.slot for row in rows if row.captured is not None], self.slots.device)
        return LaunchedTokens(
            rows=rows,
            report=Arriving(self.slots.report),
            raw=self.step.raw.index_select(0, chosen),
            norms=Arriving(self.step.norms.index_select(0, chosen)),
            failed=failed,
        )

    def _row(self, watch: Watch, num_captured: int) -> LaunchedRow:
        """A sequence's part in a step that captures so many activations before it."""
        wanted = watch.wants(watch.num_launched)
        captures = wanted and watch.has_room()
        watch.num_in_flight += captures
        return LaunchedRow(
            watch=watch,
            slot=watch.slot,
            launch=watch.num_launched,
            captured=num_captured if captures else None,
            place=self.buffer.reserve(1)[0] if captures else 0,
            skipped=wanted and not captures,
        )

    def _set_places(self, rows: list[LaunchedRow]) -> None:
        places = [0] * self.slots.limits.num_slots
        for row in rows:
            places[row.slot] = row.place
        self.step.places.copy_(send(places, self.slots.device))


def _store(prefix: Prefix, cache: PagedCache, pages: list[int]) -> None:
    """Write a prompt's keys and values into its pages."""
    page_size = cache.keys.shape[3]
    length = len(prefix)
    num_pages = -(-length // page_size)
    index = send(pages[:num_pages], cache.keys.device)
    for source, pool in ((prefix.keys, cache.keys), (prefix.values, cache.values)):
        layers, heads, _, width = source.shape
        whole = source.new_zeros(layers, heads, num_pages * page_size, width)
        whole[:, :, :length] = source
        paged = whole.view(layers, heads, num_pages, page_size, width).transpose(1, 2)
        pool.index_copy_(1, index, paged.to(pool.dtype))
