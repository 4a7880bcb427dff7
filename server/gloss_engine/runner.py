"""Runs the steps that were planned: what a plan changes goes to the device, then the step runs.

Nothing here waits for the device: `launch` queues a step, and its results are read when they are
asked for. A step that the device's memory does not suffice for is run once more in parts: each
suffix alone, then the rows by halves. What still does not fit is named in the launched step, and
everything else has run. Leaves to others: which sequences run (scheduler), what a step is (step),
what the text means (av).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gloss_engine.device_memory import DeviceMemory
from gloss_engine.kv.pool import clear_pages, copy_pages
from gloss_engine.models.batch import PagedCache
from gloss_engine.models.decoder import Decoder
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.program import AvProgram
from gloss_engine.scheduler import Prefill, StepPlan
from gloss_engine.sequence import Item, Sequence
from gloss_engine.slots import Slots
from gloss_engine.step import Step
from gloss_engine.step_graphs import StepGraphs
from gloss_engine.step_shape import DRAW_ONLY, StepShape, StepSizes
from gloss_engine.transfer import Arriving, send


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step drew, by slot.

    Attributes:
        tokens: token ids.
        logprobs: their log-probabilities, nats.
        codes: `Finish` codes.
    """

    tokens: list[int]
    logprobs: list[float]
    codes: list[int]


@dataclass(kw_only=True)
class Failed:
    """What the device's memory did not suffice for in a step.

    Attributes:
        items: their suffixes were not prefilled.
        sequences: their rows did not run.
    """

    items: list[Item] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)


class LaunchedStep(Protocol):
    """A step on its way."""

    @property
    def failed(self) -> Failed:
        """What of it did not run."""

    def result(self) -> StepResult:
        """What it drew; waits for it."""


class Runner(Protocol):
    """What the engine needs of a runner; tests drive the engine with one that has no model."""

    def launch(self, plan: StepPlan) -> LaunchedStep:
        """Queue a step that has work; its rows are the plan's slots."""

    def release(self, items: Iterable[Item]) -> None:
        """Give back what it holds of items that need no prefill, or no more."""

    def warm_up(self) -> None:
        """Do all that is done once, so that no step has to; nothing may be running."""


class _Launched:
    """A step whose report is on its way to the host; None: all of it failed."""

    def __init__(self, report: Arriving | None, failed: Failed) -> None:
        self._report, self.failed = report, failed

    def result(self) -> StepResult:
        """See `LaunchedStep`."""
        if self._report is None:
            return StepResult(tokens=[], logprobs=[], codes=[])
        return read_report(self._report.wait())


@dataclass(frozen=True, kw_only=True)
class _Forward:
    """One pass of a step.

    Attributes:
        shape: its sizes.
        prefills: the suffixes among its rows.
        first: slot of the first decode row.
    """

    shape: StepShape
    prefills: list[Prefill]
    first: int = 0


def read_report(report: Tensor) -> StepResult:
    """What the slots' report says; [3, num_slots] on the host."""
    return StepResult(
        tokens=report[0].tolist(),
        logprobs=report[1].view(torch.float32).tolist(),
        codes=report[2].tolist(),
    )


class ModelRunner:
    """Runs plans on a decoder.

    Args:
        decoder: the AV.
        program: its prompt, prefix and stops.
        cache: the pages.
        slots: the state.
        prefill_buffer: the rows that prefills inject.
        sizes: the shapes of its steps.
        batch_invariant: prefill one suffix at a time, apart from the decode rows.
        memory: the device's; None: nobody else asks for it.
    """

    def __init__(
        self,
        decoder: Decoder,
        program: AvProgram,
        cache: PagedCache,
        slots: Slots,
        prefill_buffer: PrefillBuffer,
        *,
        sizes: StepSizes,
        batch_invariant: bool = False,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.decoder, self.program, self.cache, self.slots = decoder, program, cache, slots
        self.prefill_buffer = prefill_buffer
        self.step = Step(decoder, program, cache, slots, prefill_buffer)
        self.sizes, self.batch_invariant = sizes, batch_invariant
        self.graphs = StepGraphs(self.step, sizes)
        self._memory = memory or DeviceMemory(decoder.device)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> LaunchedStep:
        """See `Runner`."""
        failed = Failed()
        if not self._memory.attempt_twice(partial(self._make_room, plan)):
            # It takes some kilobytes. Who holds which row is lost with it.
            self.slots.vacate_all()
            items = [prefill.item for prefill in plan.prefills]
            return _Launched(None, Failed(items=items, sequences=list(plan.sequences)))
        prefills = plan.prefills
        if not self._memory.attempt_twice(partial(self._start, plan)):
            failed.items += [prefill.item for prefill in prefills]
            failed.sequences += [start.sequence for start in plan.starts]
            prefills = []
        for forward in self._forwards(plan, prefills):
            if not self._memory.attempt(partial(self._run, forward)):
                self._run_in_parts(forward, plan, failed)
        report = self._memory.attempt_twice(partial(Arriving, self.slots.report))
        if report is None:
            # They have their tokens, and nobody will ever know which.
            failed.sequences = list(plan.sequences)
        return _Launched(report, failed)

    def release(self, items: Iterable[Item]) -> None:
        """See `Runner`."""
        for item in items:
            self.prefill_buffer.release([item.place])
            item.place = 0

    @torch.inference_mode()
    def warm_up(self) -> None:
        """See `Runner`."""
        if self.sizes.rows is None:
            return
        self.slots.warm_up()
        self.prefill_buffer.warm_up()
        # Steps of many prefills have no graph, but a kernel of their own.
        most = self.prefill_buffer.max_prefills
        self.graphs.run(self.sizes.shape(0, 1 if self.batch_invariant else most, DRAW_ONLY, 0))
        self.graphs.warm_up()

    def _forwards(self, plan: StepPlan, prefills: list[Prefill]) -> list[_Forward]:
        """The passes of a step, in order."""
        if self.batch_invariant:
            return self._apart(plan, prefills, plan.num_rows)
        shape = self._shape(plan, plan.num_rows, len(prefills))
        return [_Forward(shape=shape, prefills=prefills)] if plan.num_rows or prefills else []

    def _apart(self, plan: StepPlan, prefills: list[Prefill], num_rows: int) -> list[_Forward]:
        """Each suffix alone, then the rows if there are some."""
        alone = self._shape(plan, 0, 1)
        forwards = [_Forward(shape=alone, prefills=[prefill]) for prefill in prefills]
        if num_rows:
            forwards.append(_Forward(shape=self._shape(plan, num_rows, 0), prefills=[]))
        return forwards

    def _shape(self, plan: StepPlan, num_rows: int, num_prefills: int) -> StepShape:
        # Each launch stores one key more than the suffix has before its last token.
        launched = max((sequence.num_launched for sequence in plan.sequences), default=0)
        bound = self.step.prefill_len + launched
        return self.sizes.shape(num_rows, num_prefills, self.slots.parts() or DRAW_ONLY, bound)

    def _run(self, forward: _Forward) -> bool:
        """Queue a pass."""
        self._set_prefills(forward.prefills)
        self.graphs.run(forward.shape, forward.first)
        # Whoever gets their places writes them behind this step, on its stream.
        self.release(prefill.item for prefill in forward.prefills)
        return True

    def _run_in_parts(self, whole: _Forward, plan: StepPlan, failed: Failed) -> None:
        """Queue a pass in parts, since there was no memory for it as a whole."""
        parts = self._apart(plan, whole.prefills, whole.shape.num_rows)
        if whole.shape.num_rows and not self.batch_invariant:
            rows = parts.pop()
            parts += [
                _Forward(shape=shape, prefills=[], first=first)
                for shape, first in self.graphs.parts(rows.shape)
            ]
        for part in parts:
            if self._memory.attempt(partial(self._run, part)):
                continue
            failed.items += [prefill.item for prefill in part.prefills]
            slots = range(part.first, part.first + part.shape.num_rows)
            failed.sequences += [s for s in plan.sequences if s.slot in slots]

    def _make_room(self, plan: StepPlan) -> bool:
        """Rows that nobody holds any more, and rows that move; what is done is not done again."""
        if plan.idle:
            self.slots.vacate(plan.idle)
            plan.idle = []
        if plan.moves:
            self.slots.move(plan.moves)
            plan.moves = []
        return True

    def _start(self, plan: StepPlan) -> bool:
        """Pages that change hands, and rows that start."""
        if plan.fresh_pages and self.decoder.operations.backend == "reference":
            clear_pages(self.cache, plan.fresh_pages)
        copies = [pair for start in plan.starts for pair in start.copies]
        if copies:
            copy_pages(self.cache, copies, min(self.step.page_size, self.step.prefill_len))
        if plan.starts:
            owners = [start.sequence for start in plan.starts]
            stored = [self.step.prefill_len] * len(owners)
            self.slots.start(owners, self.program.suffix_ids[-1:], stored)
        return True

    def _set_prefills(self, prefills: list[Prefill]) -> None:
        """The pages and activations of the suffixes that come next."""
        if not prefills:
            return
        items, m = [prefill.item for prefill in prefills], len(prefills)
        starting = iter(
            self.prefill_buffer.write_starting([i.activation for i in items if not i.place])
        )
        rows = [item.place or next(starting) for item in items]
        sent = send(
            [(*prefill.pages, row) for prefill, row in zip(prefills, rows, strict=True)],
            self.decoder.device,
        )
        self.step.prefill_pages[:m], self.step.prefill_rows[:m] = sent[:, :-1], sent[:, -1]
