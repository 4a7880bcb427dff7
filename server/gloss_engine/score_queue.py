"""Texts that wait for the AR, and when it runs between decode steps.

Explanations to score, texts to reconstruct and texts to compare are one thing to the AR: it runs
many at once or not at all, since a batch is worth its pass over the weights, and a pass between two
steps delays everyone who decodes. A budget bounds that delay: a batch beside decoding takes as many
texts as the AR ran in that time before. With a lag a batch is read when the next one may start, so
that the host never waits while the device has nothing else to do. A batch that the device's memory
does not suffice for runs by halves, and a half that still does not fit fails.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from gloss_engine.ar.scorer import Score, Scorer
from gloss_engine.device_memory import DeviceMemory
from gloss_engine.errors import OUT_OF_MEMORY
from gloss_engine.request import Explanation, TextResult
from gloss_engine.scored import Scored, failed, result_of
from gloss_engine.transfer import Arriving, Stopwatch, send, send_rows

_BATCH_CHARS = 64 << 10
"""Characters run at once: 64 explanations of 200 tokens, or about 15 ms of tokenization."""


@dataclass(eq=False, kw_only=True)
class _Entry:
    """A text, with whose it is: an explanation to complete, or a place in a text request.

    Attributes:
        text: an explanation.
        activation: [d_model] to compare with, or None.
        owner: what is filled in.
        since_step: the engine's count when it came.
        prompt: the AR's ids, once they were needed.
        dropped: nobody wants the result any more.
    """

    text: str
    activation: Tensor | None
    owner: Explanation | TextResult
    since_step: int
    prompt: list[int] = field(default_factory=list)
    dropped: bool = False


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Texts that the AR is running.

    Attributes:
        entries: all of them.
        fitting: indices of those whose prompt the AR runs, in the order of the vectors.
        compared: indices of those that have an activation, in the order of the measures.
        vectors: [len(fitting), d_model], where a text request wants some.
        measures: [2, len(compared)].
        num_tokens: what the AR was given.
        stopwatch: runs until it is done.
    """

    entries: list[_Entry]
    fitting: list[int]
    compared: list[int]
    vectors: Arriving | None
    measures: Arriving | None
    num_tokens: int
    stopwatch: Stopwatch


class ScoreQueue:
    """A queue in front of a scorer.

    Args:
        scorer: the AR's side.
        batch: texts run at once, and the most between two steps.
        max_tokens: most tokens run at once, but for a single longer text; it bounds memory.
        wait_steps: steps a text waits at most for a batch to fill.
        budget_seconds: what a batch beside decoding may take; None: no bound but `batch`.
        lag: batches that are started before the oldest is read: 0 or 1.
        memory: the device's; None: nobody else asks for it.

    Attributes:
        num_scored: texts compared with an activation so far.
        seconds: time spent on the AR.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        batch: int,
        max_tokens: int,
        wait_steps: int,
        budget_seconds: float | None = None,
        lag: int = 0,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.scorer, self.batch, self.wait_steps = scorer, batch, wait_steps
        self.max_tokens = max_tokens
        self.budget_seconds, self.lag = budget_seconds, lag
        self.num_scored, self.seconds = 0, 0.0
        self._entries: list[_Entry] = []
        self._memory = memory or DeviceMemory(scorer.reconstructor.decoder.device)
        self._running: _Batch | None = None
        self._tokens_per_second: float | None = None

    def __len__(self) -> int:
        return len(self._entries) + (len(self._running.entries) if self._running else 0)

    @property
    def num_tokens(self) -> int:
        """Tokens the AR has run."""
        return self.scorer.reconstructor.num_tokens

    def stats(self) -> dict[str, float]:
        """Counters and gauges, by their names in EngineStats."""
        return {
            "scored": self.num_scored,
            "ar_tokens": self.num_tokens,
            "score_seconds": self.seconds,
            "num_to_score": len(self),
        }

    def add(self, explanation: Explanation, activation: Tensor, step: int) -> None:
        """Queue an explanation with its activation [d_model]; `step` is the engine's count."""
        self._entries.append(
            _Entry(
                text=explanation.explanation,
                activation=activation,
                owner=explanation,
                since_step=step,
            )
        )

    def add_text(self, result: TextResult, text: str, activation: Tensor | None, step: int) -> None:
        """Queue a text; `result` is what to fill in: a comparison, or without one the vector."""
        self._entries.append(
            _Entry(text=text, activation=activation, owner=result, since_step=step)
        )

    def drop(self, request_ids: Set[str]) -> Scored:
        """Take requests' texts out as they are, also those that the AR is running."""
        running = self._running.entries if self._running else []
        dropped = Scored()
        for entry in (*running, *self._entries):
            if entry.owner.request_id in request_ids and not entry.dropped:
                entry.dropped = True
                dropped.add(entry.owner)
        self._entries = [entry for entry in self._entries if not entry.dropped]
        return dropped

    def run(self, step: int, idle: bool) -> Scored:
        """Read the batch that runs, and start one if it is full, overdue, or nothing else runs.

        Args:
            step: the engine's count of steps.
            idle: nothing decodes, so nobody is delayed.
        """
        out = Scored()
        self._read(out)
        if self._entries:
            overdue = step - self._entries[0].since_step >= self.wait_steps
            count, is_full = self._batch_len(idle)
            if idle or overdue or is_full:
                entries, self._entries = self._entries[:count], self._entries[count:]
                self._running = self._memory.attempt(partial(self._start, entries))
                if self._running is None:
                    self._run_in_halves(entries, out)
        if self.lag == 0:
            self._read(out)
        return out

    def warm_up(self) -> None:
        """Run a full batch twice: what it takes the second time is the first guess."""
        if self.budget_seconds is None:
            return
        num_tokens = self.num_tokens
        for _ in range(2):
            self._tokens_per_second = None
            entries = [
                _Entry(text="a " * 100, activation=None, owner=_NOBODY, since_step=0)
                for _ in range(self.batch)
            ]
            self._encode(entries)
            self._running = self._start(entries)
            self._read(Scored())
        self.scorer.reconstructor.num_tokens, self.seconds = num_tokens, 0.0

    def _encode(self, entries: list[_Entry]) -> None:
        """Give entries their prompts."""
        fresh = [entry for entry in entries if not entry.prompt]
        prompts = self.scorer.reconstructor.template.encode([entry.text for entry in fresh])
        for entry, prompt in zip(fresh, prompts, strict=True):
            entry.prompt = prompt

    def _batch_len(self, idle: bool) -> tuple[int, bool]:
        """Entries of the next batch, at least one, and whether more would not go in."""
        count, num_chars = 0, 0
        for entry in self._entries[: self.batch]:
            num_chars += len(entry.text)
            if num_chars > _BATCH_CHARS and count:
                break
            count += 1
        self._encode(self._entries[:count])
        budget: float = self.max_tokens
        if not idle and self.budget_seconds is not None and self._tokens_per_second is not None:
            budget = min(budget, self.budget_seconds * self._tokens_per_second)
        num_tokens, longest = 0, self.scorer.reconstructor.max_prompt_tokens
        for within, entry in enumerate(self._entries[:count]):
            # A longer prompt is refused, not run.
            num_tokens += len(entry.prompt) if len(entry.prompt) <= longest else 0
            if num_tokens > budget and within:
                count = within
                break
        return count, count < len(self._entries) or count == self.batch

    @torch.inference_mode()
    def _start(self, entries: list[_Entry]) -> _Batch:
        """Put a batch on the device."""
        reconstructor = self.scorer.reconstructor
        limit = reconstructor.max_prompt_tokens
        fitting = [i for i, entry in enumerate(entries) if len(entry.prompt) <= limit]
        before, stopwatch = self.num_tokens, Stopwatch(reconstructor.decoder.device)
        vectors = reconstructor.reconstruct_ids([entries[i].prompt for i in fitting])
        measures = None
        places, activations = [], []
        for place, i in enumerate(fitting):
            activation = entries[i].activation
            if activation is not None:
                places.append(place)
                activations.append(activation)
        if places:
            chosen = vectors
            if len(places) < len(fitting):
                chosen = vectors.index_select(0, send(places, vectors.device))
            given = send_rows(activations, vectors.device)
            measures = Arriving(self.scorer.measure(chosen, given))
        wanted = any(isinstance(entry.owner, TextResult) for entry in entries)
        stopwatch.stop()
        return _Batch(
            entries=entries,
            fitting=fitting,
            compared=[fitting[place] for place in places],
            vectors=Arriving(vectors) if wanted else None,
            measures=measures,
            num_tokens=self.num_tokens - before,
            stopwatch=stopwatch,
        )

    def _run_in_halves(self, entries: list[_Entry], out: Scored) -> None:
        """Run a batch that there was no memory for, and wait for it; what still fails has an error.

        A single text is run once more as it is.
        """
        half = (len(entries) + 1) // 2
        for part in filter(None, (entries[:half], entries[half:])):
            batch = self._memory.attempt(partial(self._start, part))
            if batch is not None:
                self._take(batch, out)
                continue
            for entry in part:
                out.add(failed(entry.owner, OUT_OF_MEMORY))

    def _read(self, out: Scored) -> None:
        """Take in what the running batch brought, if there is one."""
        if self._running is not None:
            batch, self._running = self._running, None
            self._take(batch, out)

    def _take(self, batch: _Batch, out: Scored) -> None:
        """Take in what a batch brought; waits for it."""
        rows: dict[int, Tensor] = {}
        if batch.vectors is not None:
            rows = dict(zip(batch.fitting, batch.vectors.wait(), strict=True))
        scores: dict[int, Score] = {}
        if batch.measures is not None:
            found = self.scorer.scores(batch.measures.wait())
            scores = dict(zip(batch.compared, found, strict=True))
        self.num_scored += len(scores)
        for index, entry in enumerate(batch.entries):
            if not entry.dropped:
                out.add(result_of(entry.owner, rows.get(index), scores.get(index)))
        self._learn(batch)

    def _learn(self, batch: _Batch) -> None:
        """Remember what the batch took; the guess follows within a few batches."""
        seconds = batch.stopwatch.seconds()
        self.seconds += seconds
        if batch.num_tokens and seconds > 0:
            rate, before = batch.num_tokens / seconds, self._tokens_per_second
            self._tokens_per_second = rate if before is None else 0.7 * before + 0.3 * rate


_NOBODY = TextResult(request_id="", index=0)
