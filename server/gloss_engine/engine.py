"""The engine: activations in, explanations with their evidence out, one step at a time.

`submit` queues a request, `step` runs everything that is in flight for one token, `cancel` takes a
request out at the next step. Where a target is loaded, texts go in too (`submit_explain`,
`submit_watch`, `submit_capture`), and a step is the AV's or the target's, by their shares of time.
With a lag of one, `step` launches a step and then reads the one before, so that the device never
waits for the host. Nothing here is concurrent; a server gives it a process of its own.
Knows nothing of transport, files or checkpoints (`loading.py` builds one from directories).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Set
from dataclasses import replace
from itertools import count
from typing import Any

from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.device_memory import DeviceMemory, refusing
from gloss_engine.errors import RequestError
from gloss_engine.facts import ModelFacts
from gloss_engine.info import ModelInfo
from gloss_engine.live_weights import LiveWeights, NamedWeights
from gloss_engine.open_requests import OpenRequest, OpenRequests, given_rows
from gloss_engine.open_texts import OpenTexts
from gloss_engine.request import (
    Explaining,
    Explanation,
    StepOutput,
    TextRequest,
    VerbalizeRequest,
)
from gloss_engine.runner import Runner
from gloss_engine.scheduler import Scheduler, StepPlan
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.stats import EngineStats
from gloss_engine.steps import AvResult, AvStep, Steps
from gloss_engine.target.work import TargetWork
from gloss_engine.target_requests import TargetRequests
from gloss_engine.text_request import CaptureRequest, ExplainRequest, WatchRequest
from gloss_engine.validation import check_explaining, validate, validate_texts
from gloss_engine.verbalizations import Verbalizations

PACE_SECONDS = 0.005
"""How long a step waits at most when all there is to do is a token that is not due yet."""


class Engine:
    """Continuous batching of verbalizations over one runner.

    Args:
        runner: runs steps.
        scheduler: decides them.
        reader: turns ids into text.
        facts: what the checkpoints say.
        scores: the AR's side, or None.
        target: the target's side, or None.
        info: what is loaded, for those who ask; None for an engine without checkpoints.
        lag: steps that are launched before the oldest is read: 0 or 1.
        device_memory: what is told of it; None: nothing.
        weights: the pair's, for training to replace; None: they stay as they are.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        reader: ExplanationReader,
        facts: ModelFacts,
        scores: ScoreQueue | None = None,
        info: ModelInfo | None = None,
        lag: int = 0,
        target: TargetWork | None = None,
        target_share: float = 0.5,
        watch_max_pending: int = 64,
        device_memory: DeviceMemory | None = None,
        weights: LiveWeights | None = None,
    ) -> None:
        self.runner, self.scheduler, self.reader = runner, scheduler, reader
        self.facts, self.scores, self.info, self.lag = facts, scores, info, lag
        self.target, self.weights, self._device_memory = target, weights, device_memory
        self._steps = Steps(runner, scheduler, target, target_share, lag)
        self._requests = OpenRequests(reader, facts)
        self._texts = OpenTexts()
        self._cancelled: dict[str, None] = {}
        self._held = StepOutput()
        self._num_requests = 0
        self._stats = EngineStats(
            prefix_tokens=facts.prefix_len, pages_total=scheduler.allocator.capacity
        )
        self._verbalizations = Verbalizations(
            self._requests, runner, scheduler, reader, scores, self._stats
        )
        self._targets: TargetRequests | None = None
        if target is not None:
            self._targets = TargetRequests(
                target, self._requests, self._verbalizations.add, watch_max_pending
            )

    @property
    def has_work(self) -> bool:
        """Whether another step would bring anything."""
        return bool(self._requests or self._texts or self._targets or self._held)

    def stats(self) -> EngineStats:
        """A copy of the counters, with this moment's gauges."""
        told: dict[str, Any] = {}
        for part in (self.target, self.scores, self._device_memory):
            told |= {} if part is None else part.stats()
        return replace(
            self._stats,
            explanations=dict(self._stats.explanations),
            item_errors=dict(self._stats.item_errors),
            num_running=len(self.scheduler.running),
            num_waiting=self.scheduler.num_waiting,
            num_waiting_batch=self.scheduler.num_waiting_batch,
            pages_used=self.scheduler.allocator.num_used,
            **told,
        )

    def submit(self, request: VerbalizeRequest, request_id: str | None = None) -> str:
        """Queue a request.

        Args:
            request: what to explain.
            request_id: a name for it, unique among those in flight; None makes one.

        Returns:
            The request's id.

        Raises:
            RequestError: a request that cannot run as a whole; nothing is queued.
        """
        self._check_new(request_id)
        activations = validate(request, self.facts, self.scheduler, self.scores is not None)
        request_id = request_id or self._new_id()
        seed = request.sampling.seed
        opened = OpenRequest(
            request=request,
            seed=secrets.randbits(64) if seed is None else seed,
            scored=self._scores(request),
            token_logprobs=request.token_logprobs,
        )
        self._requests.add(request_id, opened)
        self._verbalizations.add(request_id, given_rows(request, activations))
        return request_id

    def submit_explain(self, request: ExplainRequest, request_id: str | None = None) -> str:
        """Queue a text, whose activations are explained once the target has read it.

        Args and errors are those of `submit`.
        """
        side, request_id = self._check_text(request, request_id)
        side.explain(request_id, request, self._scores(request))
        return request_id

    def submit_watch(self, request: WatchRequest, request_id: str | None = None) -> str:
        """Queue a prompt that the target goes on from while its activations are explained.

        Args and errors are those of `submit`.
        """
        side, request_id = self._check_text(request, request_id)
        side.watch(request_id, request, self._scores(request))
        return request_id

    def submit_capture(self, request: CaptureRequest, request_id: str | None = None) -> str:
        """Queue texts whose activations are handed out.

        Args and errors are those of `submit`.
        """
        side = self._text_side(request_id)
        request_id = request_id or self._new_id()
        side.capture(request_id, request)
        return request_id

    def submit_texts(self, request: TextRequest, request_id: str | None = None) -> str:
        """Queue texts for the AR; they run between decode steps.

        Args:
            request: the texts, with activations to compare them with or without.
            request_id: as for `submit`.

        Returns:
            The request's id.

        Raises:
            RequestError: a request that cannot run as a whole; nothing is queued.
        """
        self._check_new(request_id)
        activations = validate_texts(request, self.facts, self.scores is not None)
        assert self.scores is not None
        request_id = request_id or self._new_id()
        self._texts.add(request_id, request, activations, self.scores, self._stats.num_steps)
        return request_id

    def warm_up(self) -> float:
        """Compile and capture what steps will run, so that no request waits for it.

        Returns:
            The seconds it took. Where steps have no listed sizes there is nothing to do.

        Raises:
            MemoryTooSmall: what steps take besides pages does not fit the device.
        """
        started = time.perf_counter()
        fix = "lower memory_fraction, which leaves steps more room beside the pages, or num_slots"
        with refusing("the steps' graphs and kernels", fix):
            self.runner.warm_up()
            if self.target is not None:
                self.target.warm_up()
            if self.scores is not None:
                self.scores.warm_up()
        return time.perf_counter() - started

    def update_weights(self, av: NamedWeights, ar: NamedWeights | None = None) -> float:
        """Replace the pair's weights in place: see `LiveWeights.update`, which raises too when
        anything is in flight. `info` and its fingerprint go on naming what was loaded."""
        assert self.weights is not None
        return self.weights.update(av, ar, is_idle=not self.has_work)

    def weights_checksum(self) -> str:
        """The checksum of the pair's weights: see `LiveWeights.checksum`."""
        assert self.weights is not None
        return self.weights.checksum()

    def cancel(self, request_id: str) -> None:
        """Take a request out at the next step; what it had generated comes back as cancelled.

        An id that is not in flight is ignored: it may just have finished. Texts of a cancelled
        request that have not run come back without a result and without an error.
        """
        if self._in_flight(request_id):
            self._cancelled[request_id] = None

    def step(self) -> StepOutput:
        """Run everything in flight for one token and return what came of it."""
        started = time.perf_counter()
        out, self._held = self._held, StepOutput()
        if self._cancelled:
            self._leave(self._cancelled.keys())
            self._cancelled.clear()
        launched = self._steps.launch()
        if isinstance(launched, AvStep):
            self._note(launched.plan, out)
            self._verbalizations.fail(launched.step.failed)
        elif launched is not None:
            # What waits for the AR counts the target's steps as well, which may be all there are.
            self._stats.num_steps += 1
        elif not self._steps and not (self.scores and len(self.scores)):
            self._pause()
        for came in self._steps.read(ahead=launched is not None):
            if isinstance(came, AvResult):
                self._verbalizations.read(came, out)
            elif self._targets is not None:
                self._targets.take(came, out)
        if self.scores is not None:
            # Between two tokens that a pace keeps apart the AR delays nobody either.
            idle = not self._steps.is_busy or (launched is None and not self._steps)
            before = self.scores.seconds
            scored = self.scores.run(self._stats.num_steps, idle=idle)
            self._steps.charge_scoring(self.scores.seconds - before)
            self._requests.ready += scored.explanations
            self._texts.ready += scored.texts
        self._stats.count([*self._requests.ready, *self._texts.ready])
        self._requests.hand_out(out)
        self._texts.hand_out(out)
        if self._targets is not None:
            self._targets.hand_out(out)
        self._stats.step_seconds += time.perf_counter() - started
        return out

    def verbalize(self, request: VerbalizeRequest) -> list[Explanation]:
        """Run one request to its end; what else is in flight goes on meanwhile.

        Returns:
            Its explanations, by index and sample. What other requests got comes with the next
            `step`.
        """
        request_id = self.submit(request)
        results: list[Explanation] = []
        others = StepOutput()
        while request_id in self._requests:
            out = self.step()
            results += out.take(request_id)
            others.extend(out)
        self._held = others
        return sorted(results, key=lambda e: (e.index, e.sample))

    def _text_side(self, request_id: str | None) -> TargetRequests:
        """The target's requests, for a new one."""
        self._check_new(request_id)
        if self._targets is None:
            raise RequestError(
                "NO_TARGET", "target", "target: none is loaded; load one with the AV"
            )
        return self._targets

    def _check_text(
        self, request: Explaining, request_id: str | None
    ) -> tuple[TargetRequests, str]:
        """Check how a text is to be explained; who takes it, and its name."""
        side = self._text_side(request_id)
        check_explaining(request, self.facts, self.scheduler, self.scores is not None)
        return side, request_id or self._new_id()

    def _scores(self, request: Explaining) -> bool:
        return request.score is not False and self.scores is not None

    def _in_flight(self, request_id: str) -> bool:
        captures = self._targets is not None and request_id in self._targets
        return request_id in self._requests or request_id in self._texts or captures

    def _check_new(self, request_id: str | None) -> None:
        if request_id is not None and self._in_flight(request_id):
            raise RequestError(
                "DUPLICATE_REQUEST", "request_id", f"request_id: {request_id!r} is in flight"
            )

    def _new_id(self) -> str:
        """A name that nobody in flight has."""
        names = (f"request-{number}" for number in count(self._num_requests))
        request_id = next(name for name in names if not self._in_flight(name))
        self._num_requests += 1
        return request_id

    def _pause(self) -> None:
        """All there is to do is a token that is not due yet: let the processor go."""
        if self.target is not None and self.target.has_work:
            time.sleep(PACE_SECONDS)

    def _note(self, plan: StepPlan, out: StepOutput) -> None:
        """Tell and count what a launched step of the AV runs."""
        out.num_rows = len(plan.sequences)
        out.started = [(prefill.item.request_id, prefill.item.index) for prefill in plan.prefills]
        stats = self._stats
        stats.num_steps += 1
        stats.prefill_tokens += len(plan.prefills) * self.facts.suffix_len
        stats.prefix_tokens_reused += len(plan.prefills) * self.facts.prefix_len

    def _leave(self, request_ids: Set[str]) -> None:
        """Cancel what requests still have in flight."""
        if self._targets is not None:
            self._targets.cancel(request_ids)
        if self.scores is not None:
            dropped = self.scores.drop(request_ids)
            self._requests.ready += dropped.explanations
            self._texts.ready += dropped.texts
        self._verbalizations.cancel(request_ids)
