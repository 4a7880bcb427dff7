"""The engine: activations in, explanations with their evidence out, one step at a time.

`submit` queues a request, `step` runs everything that is in flight for one token, `cancel` takes a
request out at the next step. With a lag of one, `step` launches a step and then reads the one
before, so that the device never waits for the host. Nothing here is concurrent; a server gives it a
process of its own.
Knows nothing of transport, files or checkpoints (`loading.py` builds one from directories).
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import count

import torch

from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.errors import RequestError
from gloss_engine.facts import ModelFacts
from gloss_engine.info import ModelInfo
from gloss_engine.open_requests import OpenRequest, OpenRequests
from gloss_engine.open_texts import OpenTexts
from gloss_engine.request import (
    Explanation,
    StepOutput,
    TextRequest,
    TextResult,
    TokenDelta,
    VerbalizeRequest,
)
from gloss_engine.runner import LaunchedStep, Runner, StepResult
from gloss_engine.scheduler import Scheduler, StepPlan
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.sequence import Item, Sequence
from gloss_engine.stats import EngineStats
from gloss_engine.validation import item_errors, validate, validate_texts
from gloss_kernels import FINISH_NAMES, Finish


@dataclass(frozen=True, kw_only=True)
class _Launched:
    """A step that has not been read, with the sequences it draws for and the slots they had."""

    step: LaunchedStep
    rows: list[tuple[Sequence, int]]


class Engine:
    """Continuous batching of verbalizations over one runner.

    Args:
        runner: runs steps.
        scheduler: decides them.
        reader: turns ids into text.
        facts: what the checkpoints say.
        scores: the AR's side, or None.
        info: what is loaded, for those who ask; None for an engine without checkpoints.
        lag: steps that are launched before the oldest is read: 0 or 1.
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
    ) -> None:
        self.runner, self.scheduler, self.reader = runner, scheduler, reader
        self.facts, self.scores, self.info, self.lag = facts, scores, info, lag
        self._launched: deque[_Launched] = deque()
        self._requests = OpenRequests(reader, facts)
        self._texts = OpenTexts()
        self._cancelled: list[str] = []
        self._held = StepOutput()
        self._num_requests = 0
        self._stats = EngineStats(
            prefix_tokens=facts.prefix_len, pages_total=scheduler.allocator.capacity
        )

    @property
    def has_work(self) -> bool:
        """Whether another step would bring anything."""
        held = self._held.explanations or self._held.texts
        return bool(self._requests or self._texts or held)

    def stats(self) -> EngineStats:
        """A copy of the counters, with this moment's gauges."""
        return replace(
            self._stats,
            explanations=dict(self._stats.explanations),
            item_errors=dict(self._stats.item_errors),
            scored=0 if self.scores is None else self.scores.num_scored,
            ar_tokens=0 if self.scores is None else self.scores.num_tokens,
            score_seconds=0.0 if self.scores is None else self.scores.seconds,
            num_running=len(self.scheduler.running),
            num_waiting=self.scheduler.num_waiting,
            num_to_score=0 if self.scores is None else len(self.scores),
            pages_used=self.scheduler.allocator.num_used,
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
        seed = secrets.randbits(64) if seed is None else seed
        n, samples = activations.shape[0], int(request.num_samples)
        norms = torch.linalg.vector_norm(activations, dim=-1).tolist()
        opened = OpenRequest(
            request=request,
            activations=activations,
            norms=norms,
            seed=seed,
            num_open=n * samples,
            scored=request.score is not False and self.scores is not None,
        )
        self._requests.add(request_id, opened)
        errors = item_errors(norms)
        for index in range(n):
            if index in errors:
                for sample in range(samples):
                    self._requests.fail(request_id, index, sample, errors[index])
                continue
            key = index if request.item_keys is None else int(request.item_keys[index])
            self.scheduler.add(
                Item(
                    request_id=request_id,
                    index=index,
                    item_key=key,
                    seed=seed,
                    sampling=request.sampling,
                    num_samples=samples,
                    activation=activations[index],
                )
            )
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
        """
        started = time.perf_counter()
        self.runner.warm_up()
        if self.scores is not None:
            self.scores.warm_up()
        return time.perf_counter() - started

    def cancel(self, request_id: str) -> None:
        """Take a request out at the next step; what it had generated comes back as cancelled.

        An id that is not in flight is ignored: it may just have finished. Texts of a cancelled
        request that have not run come back without a result and without an error.
        """
        in_flight = request_id in self._requests or request_id in self._texts
        if in_flight and request_id not in self._cancelled:
            self._cancelled.append(request_id)

    def step(self) -> StepOutput:
        """Run everything in flight for one token and return what came of it."""
        started = time.perf_counter()
        out, self._held = self._held, StepOutput()
        for request_id in self._cancelled:
            self._leave(request_id)
        self._cancelled.clear()
        plan = self.scheduler.schedule()
        if plan.has_work:
            self._launch(plan, out)
        while len(self._launched) > (self.lag if plan.has_work else 0):
            launched = self._launched.popleft()
            self._read(launched.rows, launched.step.result(), out)
        if self.scores is not None:
            scored = self.scores.run(self._stats.num_steps, idle=not self.scheduler.has_work)
            self._requests.ready += scored.explanations
            self._texts.ready += scored.texts
        for explanation in self._requests.ready:
            self._count(explanation)
        for text_result in self._texts.ready:
            self._count(text_result)
        self._requests.hand_out(out)
        self._texts.hand_out(out)
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
            for explanation in out.explanations:
                mine = explanation.request_id == request_id
                (results if mine else others.explanations).append(explanation)
            others.tokens += [delta for delta in out.tokens if delta.request_id != request_id]
            others.started += [item for item in out.started if item[0] != request_id]
            others.texts += out.texts
            others.finished += [name for name in out.finished if name != request_id]
        self._held = others
        return sorted(results, key=lambda e: (e.index, e.sample))

    def _check_new(self, request_id: str | None) -> None:
        if request_id in self._requests or request_id in self._texts:
            raise RequestError(
                "DUPLICATE_REQUEST", "request_id", f"request_id: {request_id!r} is in flight"
            )

    def _new_id(self) -> str:
        """A name that nobody in flight has."""
        names = (f"request-{number}" for number in count(self._num_requests))
        request_id = next(n for n in names if n not in self._requests and n not in self._texts)
        self._num_requests += 1
        return request_id

    def _launch(self, plan: StepPlan, out: StepOutput) -> None:
        """Start one step of the model."""
        rows = [(sequence, sequence.slot) for sequence in plan.sequences]
        self._launched.append(_Launched(step=self.runner.launch(plan), rows=rows))
        out.num_rows = len(rows)
        out.started = [(prefill.item.request_id, prefill.item.index) for prefill in plan.prefills]
        stats = self._stats
        stats.num_steps += 1
        stats.prefill_tokens += len(plan.prefills) * self.facts.suffix_len
        stats.prefix_tokens_reused += len(plan.prefills) * self.facts.prefix_len

    def _read(self, rows: list[tuple[Sequence, int]], result: StepResult, out: StepOutput) -> None:
        """Take in what a step drew, and the departures it causes."""
        for sequence, slot in rows:
            if sequence.ended:
                continue
            self._stats.decode_tokens += 1
            code = result.codes[slot]
            request = self._requests[sequence.item.request_id].request
            reason = None if code == Finish.RUNNING else FINISH_NAMES[Finish(code)]
            sequence.token_ids.append(result.tokens[slot])
            sequence.logprob += result.logprobs[slot]
            if request.stream or request.sampling.stop:
                reason = self._look(sequence, request, reason, out)
            if reason is not None:
                self._finish(sequence, reason)

    def _look(
        self, sequence: Sequence, request: VerbalizeRequest, reason: str | None, out: StepOutput
    ) -> str | None:
        """Look at a sequence's last token as it comes: for streams and custom stop strings."""
        item = sequence.item
        if request.stream and reason != "error":
            token_id = sequence.token_ids[-1]
            out.tokens.append(TokenDelta(item.request_id, item.index, sequence.sample, token_id))
        if request.sampling.stop and reason in (None, "length"):
            text = self.reader.raw_text(sequence.token_ids)
            if any(stop in text for stop in request.sampling.stop):
                return "stop"
        return reason

    def _finish(self, sequence: Sequence, reason: str) -> None:
        """Make a sequence's result of what was read of it, and free what it holds."""
        sequence.ended = True
        self.scheduler.retire([sequence])
        explanation = self._requests.explain(sequence, reason)
        if explanation is None:
            return
        opened = self._requests[explanation.request_id]
        if self.scores is not None and opened.scored and reason != "cancelled":
            activation = opened.activations[explanation.index]
            self.scores.add(explanation, activation, self._stats.num_steps)
        else:
            self._requests.ready.append(explanation)

    def _leave(self, request_id: str) -> None:
        """Cancel what a request still has in flight."""
        if self.scores is not None:
            dropped = self.scores.drop(request_id)
            self._requests.ready += dropped.explanations
            self._texts.ready += dropped.texts
        items, leaving = self.scheduler.cancel(request_id)
        self.runner.release(items)
        self._requests.drop(items)
        for sequence in leaving:
            self._finish(sequence, "cancelled")

    def _count(self, result: Explanation | TextResult) -> None:
        """Count a result: explanations by reason, errors by theirs."""
        if result.error is not None:
            counts, reason = self._stats.item_errors, result.error.reason
        elif isinstance(result, Explanation):
            counts, reason = self._stats.explanations, result.finish_reason
        else:
            return
        counts[reason] = counts.get(reason, 0) + 1
