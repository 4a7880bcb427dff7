"""Runs the steps that were planned: what a plan changes goes to the device, then the step runs.

Nothing here waits for the device: `launch` queues a step, and its results are read when they are
asked for. Leaves to others: which sequences run (scheduler), what a step is (step), what the text
means (av).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gloss_engine.kv.pool import clear_pages, copy_pages
from gloss_engine.models.batch import PagedCache
from gloss_engine.models.decoder import Decoder
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.program import AvProgram
from gloss_engine.scheduler import Prefill, StepPlan
from gloss_engine.sequence import Item
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


class LaunchedStep(Protocol):
    """A step on its way."""

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
    """A step whose report is on its way to the host."""

    def __init__(self, report: Tensor) -> None:
        self._report = Arriving(report)

    def result(self) -> StepResult:
        """See `LaunchedStep`."""
        return read_report(self._report.wait())


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
    ) -> None:
        self.decoder, self.program, self.cache, self.slots = decoder, program, cache, slots
        self.prefill_buffer = prefill_buffer
        self.step = Step(decoder, program, cache, slots, prefill_buffer)
        self.sizes, self.batch_invariant = sizes, batch_invariant
        self.graphs = StepGraphs(self.step, sizes)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> LaunchedStep:
        """See `Runner`."""
        self._apply(plan)
        for shape, prefills in self._shapes(plan):
            self._set_prefills(prefills)
            self.graphs.run(shape)
            # Whoever gets their places writes them behind this step, on its stream.
            self.release(prefill.item for prefill in prefills)
        return _Launched(self.slots.report)

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

    def _shapes(self, plan: StepPlan) -> list[tuple[StepShape, list[Prefill]]]:
        """The forwards of a step, in order, with the suffixes each prefills."""
        parts = self.slots.parts() or DRAW_ONLY
        # Each launch stores one key more than the suffix has before its last token.
        launched = max((sequence.num_launched for sequence in plan.sequences), default=0)
        bound = self.step.prefill_len + launched
        if not self.batch_invariant:
            shape = self.sizes.shape(plan.num_rows, len(plan.prefills), parts, bound)
            return [(shape, plan.prefills)]
        alone = self.sizes.shape(0, 1, parts, bound)
        forwards = [(alone, [prefill]) for prefill in plan.prefills]
        if plan.num_rows:
            forwards.append((self.sizes.shape(plan.num_rows, 0, parts, bound), []))
        return forwards

    def _apply(self, plan: StepPlan) -> None:
        """Pages and rows that change hands."""
        if plan.fresh_pages and self.decoder.operations.backend == "reference":
            clear_pages(self.cache, plan.fresh_pages)
        copies = [pair for start in plan.starts for pair in start.copies]
        if copies:
            copy_pages(self.cache, copies, min(self.step.page_size, self.step.prefill_len))
        self.slots.apply(plan, self.program.suffix_ids[-1:], self.step.prefill_len)

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
