"""Activations on their way to explanations: rows in, tokens of steps in, explanations out.

Rows become items of the scheduler, what steps draw for them is taken in token by token, and whoever
ends gets his explanation, by way of the AR where it is scored. Which steps run is the business of
`steps.py`, what is asked for the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from collections.abc import Set

from gloss_engine.av.verbalizer import ExplanationReader
from gloss_engine.errors import OUT_OF_MEMORY
from gloss_engine.open_requests import OpenRequests, OpenRow
from gloss_engine.request import Explaining, StepOutput, TokenDelta
from gloss_engine.runner import Failed, Runner
from gloss_engine.scheduler import Scheduler
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.sequence import Item, Sequence
from gloss_engine.stats import EngineStats
from gloss_engine.steps import AvResult
from gloss_engine.validation import item_errors
from gloss_kernels import FINISH_NAMES, Finish


class Verbalizations:
    """What is being explained.

    Args:
        requests: whose activations they are.
        runner, scheduler: the AV's.
        reader: turns ids into text.
        scores: the AR's side, or None.
        stats: counts tokens; its number of steps is the AR's clock.
    """

    def __init__(
        self,
        requests: OpenRequests,
        runner: Runner,
        scheduler: Scheduler,
        reader: ExplanationReader,
        scores: ScoreQueue | None,
        stats: EngineStats,
    ) -> None:
        self.runner, self.scheduler, self.reader = runner, scheduler, reader
        self._requests, self._scores, self._stats = requests, scores, stats

    def add(self, request_id: str, rows: Rows[OpenRow]) -> None:
        """Let activations of a request be explained; one that cannot be fails alone."""
        opened = self._requests[request_id]
        errors = item_errors([row.norm for row in rows])
        samples = int(opened.request.num_samples)
        indices = self._requests.extend(request_id, rows)
        for at, (index, row) in enumerate(zip(indices, rows, strict=True)):
            item = Item(
                request_id=request_id,
                index=index,
                item_key=row.item_key,
                seed=opened.seed,
                sampling=opened.request.sampling,
                num_samples=samples,
                activation=row.activation,
                place=row.buffer_place,
                priority=opened.request.priority,
            )
            if at not in errors:
                self.scheduler.add(item)
                continue
            self.runner.release([item])
            for sample in range(samples):
                self._requests.fail(request_id, index, sample, errors[at])

    def read(self, came: AvResult, out: StepOutput) -> None:
        """Take in what a step drew, and the departures it causes."""
        result = came.result
        for sequence, slot in came.rows:
            if sequence.ended:
                continue
            self._stats.decode_tokens += 1
            code = result.codes[slot]
            opened = self._requests[sequence.item.request_id]
            request = opened.request
            reason = None if code == Finish.RUNNING else FINISH_NAMES[Finish(code)]
            sequence.token_ids.append(result.tokens[slot])
            sequence.logprob += result.logprobs[slot]
            if opened.token_logprobs:
                sequence.token_logprobs.append(result.logprobs[slot])
            if request.stream or request.sampling.stop:
                reason = self._look(sequence, request, reason, out)
            if reason is not None and self._finish(sequence, reason):
                out.written.append(sequence.item.request_id)

    def _look(
        self, sequence: Sequence, request: Explaining, reason: str | None, out: StepOutput
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

    def cancel(self, request_ids: Set[str]) -> None:
        """Take requests' activations out; what they had generated comes back as cancelled."""
        items, leaving = self.scheduler.cancel(request_ids)
        self.runner.release(items)
        self._requests.drop(items)
        for sequence in leaving:
            self._finish(sequence, "cancelled")

    def fail(self, failed: Failed) -> None:
        """End what the device's memory did not suffice for."""
        sequences = list(failed.sequences)
        for item in failed.items:
            sequences += self.scheduler.drop(item)
            self.runner.release([item])
            for sample in range(item.num_forked, item.num_samples):
                self._requests.fail(item.request_id, item.index, sample, OUT_OF_MEMORY)
        for sequence in sequences:
            if not sequence.ended:
                sequence.ended = True
                self.scheduler.retire([sequence])
                item = sequence.item
                self._requests.fail(item.request_id, item.index, sequence.sample, OUT_OF_MEMORY)

    def _finish(self, sequence: Sequence, reason: str) -> bool:
        """Make a sequence's result of what was read of it, and free what it holds; whether it
        waits for the AR."""
        sequence.ended = True
        self.scheduler.retire([sequence])
        explanation = self._requests.explain(sequence, reason)
        if explanation is None:
            return False
        opened = self._requests[explanation.request_id]
        if self._scores is not None and opened.scored and reason != "cancelled":
            activation = opened.rows[explanation.index].activation
            self._scores.add(explanation, activation, self._stats.num_steps)
            return True
        self._requests.ready.append(explanation)
        return False
