"""Lets the target go on from prompts: slots, pages, and one step at a time for all that are due.

A Watch holds its slot and the pages of its whole length from before its prompt is read until it has
ended, so nothing is ever preempted. Which activations a step captures is settled when it is
launched, also who is skipped because too many of his are waiting; it counts, and is said, when the
step has been read, since only then it is known that the sequence had not ended before.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import clear_pages
from gloss_engine.models.batch import PagedCache, Prefix
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.runner import StepResult, read_report
from gloss_engine.slots import PAUSED
from gloss_engine.step_graphs import StepGraphs
from gloss_engine.step_shape import DRAW_ONLY, StepSizes
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
    """

    rows: list[LaunchedRow]
    report: Arriving
    raw: Tensor
    norms: Arriving

    def result(self) -> tuple[StepResult, list[float]]:
        """What was drawn, and the captured norms; waits for them."""
        return read_report(self.report.wait()), self.norms.wait().tolist()


class Generator:
    """Generates with one target.

    Args:
        step: what runs.
        cache: its pages.
        allocator: which of them are free.
        sizes: the shapes of its steps.
        buffer: the AV's prefill buffer.
    """

    def __init__(
        self,
        step: TargetStep,
        cache: PagedCache,
        allocator: BlockAllocator,
        sizes: StepSizes,
        buffer: PrefillBuffer,
    ) -> None:
        self.step, self.cache, self.allocator, self.sizes = step, cache, allocator, sizes
        self.buffer, self.slots = buffer, step.slots
        self.graphs = StepGraphs(step, sizes)
        self.waiting: deque[Watch] = deque()
        self.running: dict[int, Watch] = {}
        self._free_slots = list(range(self.slots.limits.num_slots))
        self._idle: list[int] = []
        self._starting: list[Watch] = []
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

    @torch.inference_mode()
    def start(self, watch: Watch, prefix: Prefix | None) -> None:
        """Its prompt has been read, up to the last token: it runs from the next step on.

        Args:
            prefix: keys and values of that part, None for a prompt of one token.
        """
        if self.step.decoder.operations.backend == "reference":
            clear_pages(self.cache, watch.pages)
        if prefix is not None:
            _store(prefix, self.cache, watch.pages)
        self._starting.append(watch)

    def due(self, now: float) -> list[Watch]:
        """Those whose next step may run now."""
        return [w for w in self._begun() if not w.ended and not w.is_launched and w.due <= now]

    @torch.inference_mode()
    def launch(self, now: float) -> LaunchedTokens:
        """Queue a step of all that are due; there is one at least."""
        due = self.due(now)
        self._change_rows(due)
        rows: list[LaunchedRow] = []
        for watch in due:
            rows.append(self._row(watch, sum(row.captured is not None for row in rows)))
        self._set_places(rows)
        bound = max(watch.position(watch.num_launched) for watch in due) + 1
        shape = self.sizes.shape(
            1 + max(watch.slot for watch in due), 0, self.slots.parts() or DRAW_ONLY, bound
        )
        self.graphs.run(shape)
        for watch in due:
            watch.num_launched += 1
            watch.pace(now)
        chosen = send([row.slot for row in rows if row.captured is not None], self.slots.device)
        return LaunchedTokens(
            rows=rows,
            report=Arriving(self.slots.report),
            raw=self.step.raw.index_select(0, chosen),
            norms=Arriving(self.step.norms.index_select(0, chosen)),
        )

    def retire(self, watch: Watch) -> None:
        """Free what a Watch holds, running or not; of one that has left already, nothing."""
        watch.ended = True
        if watch in self.waiting:
            self.waiting.remove(watch)
        if self.running.get(watch.slot) is watch:
            del self.running[watch.slot]
            heapq.heappush(self._free_slots, watch.slot)
            self.allocator.free(watch.pages)
            if watch.num_launched:
                self._idle.append(watch.slot)
        if watch in self._starting:
            self._starting.remove(watch)

    def warm_up(self) -> None:
        """Compile and capture the steps; nothing may be running."""
        if self.sizes.rows is not None:
            self.slots.warm_up()
            self.graphs.warm_up()

    def _begun(self) -> list[Watch]:
        return [w for w in self.running.values() if w.num_launched or w in self._starting]

    def _change_rows(self, due: list[Watch]) -> None:
        """Write the rows that change hands, and who waits in this step."""
        if self._idle:
            self.slots.vacate(self._idle)
            self._paused -= set(self._idle)
            self._idle = []
        if self._starting:
            starting, self._starting = self._starting, []
            first = send([watch.prompt_ids[-1] for watch in starting], self.slots.device)
            self.slots.start(starting, first, [len(w.prompt_ids) - 1 for w in starting])
        # Who is paused has been read up to there before he goes on: his row has not ended unseen.
        runs = {watch.slot for watch in due}
        begun = {slot for slot, w in self.running.items() if w.num_launched and not w.is_launched}
        waits = begun - runs
        if waits - self._paused:
            self.slots.set_codes(sorted(waits - self._paused), PAUSED)
        if self._paused & runs:
            self.slots.set_codes(sorted(self._paused & runs), int(Finish.RUNNING))
        self._paused = waits

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
