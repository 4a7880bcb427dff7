"""Texts that wait for the target, in two lines: what somebody looks at, and what can wait.

A pass takes texts from the front of one line: as many short ones as fit together, or the next chunk
of a long one. The lines take turns by their priority, counted in tokens (`turns.py`): no large
capture stops what somebody looks at, and it goes on all the same. How many tokens a pass takes is
the caller's to say: a text that does not fit is read in chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field

from gloss_engine.target.reader import LongText, TextToRead
from gloss_engine.target.watch import Watch
from gloss_engine.turns import Turns

EXPLAIN, CAPTURE, PROMPT = "explain", "capture", "prompt"


@dataclass(eq=False, kw_only=True)
class Job:
    """A text to read.

    Attributes:
        request_id: whose.
        kind: what for: EXPLAIN, CAPTURE, or the PROMPT of a Watch.
        text: what is read.
        layer_index: the block whose output is wanted.
        priority: one of PRIORITIES.
        index: which text of its request.
        watch: whose prompt it is.
        long: how far it is, where it takes passes of its own.
        dropped: nobody wants it any more.
    """

    request_id: str
    kind: str
    text: TextToRead
    layer_index: int
    priority: str
    index: int = 0
    watch: Watch | None = None
    long: LongText | None = None
    dropped: bool = False


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass takes: several whole texts, or a chunk of one.

    Attributes:
        jobs: whose texts.
        num_tokens: of all of them together, or of the chunk.
    """

    jobs: list[Job] = field(default_factory=list)
    num_tokens: int

    @property
    def long(self) -> LongText | None:
        """The text that takes passes of its own, or None."""
        return self.jobs[0].long


class ReadingQueue:
    """Jobs in order of priority, and within one of arrival.

    Args:
        max_tokens: most tokens of a pass.
        batch_share: share of the tokens that batch texts get while interactive ones wait too.
    """

    def __init__(self, max_tokens: int, batch_share: float) -> None:
        self.max_tokens = max_tokens
        self._interactive, self._batch = deque[Job](), deque[Job]()
        self._turns = Turns(batch_share=batch_share)

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def add(self, job: Job) -> None:
        """Queue a text. A prompt is read apart from others, since its keys are kept."""
        if job.kind == PROMPT:
            make_long(job)
        (self._batch if job.priority == "batch" else self._interactive).append(job)

    def next_pass(self, most: int | None = None) -> Pass:
        """Take what the next pass runs; a long text stays at the front until it is read.

        Args:
            most: tokens, 1 or more; None: as many as a pass may have.
        """
        most = self.max_tokens if most is None else min(most, self.max_tokens)
        waiting = [_first_tokens(line, most) for line in (self._interactive, self._batch)]
        if self._turns.is_batch(*waiting):
            taken = _take(self._batch, most)
            # What goes with the first text in one pass is saved up for afterwards.
            self._turns.batch_went(taken.num_tokens, interactive_waits=bool(self._interactive))
        else:
            taken = _take(self._interactive, most)
            self._turns.interactive_went(taken.num_tokens, batch_waits=bool(self._batch))
        return taken

    def remove(self, job: Job) -> None:
        """Take a text out, if it is still there: one whose first passes were run is."""
        for line in (self._interactive, self._batch):
            if line and line[0] is job:
                line.popleft()

    def drop(self, request_ids: Set[str]) -> list[Job]:
        """Take requests' texts out."""
        dropped = [j for j in (*self._interactive, *self._batch) if j.request_id in request_ids]
        for job in dropped:
            job.dropped = True
        self._interactive = deque(job for job in self._interactive if not job.dropped)
        self._batch = deque(job for job in self._batch if not job.dropped)
        return dropped


def _first_tokens(line: deque[Job], most: int) -> int:
    """Tokens of the first text that a pass takes at least; 0 where nothing waits."""
    if not line:
        return 0
    job = line[0]
    return min(most, len(job.text.token_ids) - (0 if job.long is None else job.long.num_read))


def _take(line: deque[Job], most: int) -> Pass:
    """What a pass of at most so many tokens takes from a line that has some."""
    first = line[0]
    if len(first.text.token_ids) > most:
        make_long(first)
    if first.long is not None:
        left = len(first.text.token_ids) - first.long.num_read
        if left <= most:
            line.popleft()
        return Pass(jobs=[first], num_tokens=min(left, most))
    jobs: list[Job] = []
    num_tokens = 0
    while line and line[0].long is None and line[0].layer_index == first.layer_index:
        more = len(line[0].text.token_ids)
        if num_tokens + more > most:
            break
        num_tokens += more
        jobs.append(line.popleft())
    return Pass(jobs=jobs, num_tokens=num_tokens)


def make_long(job: Job) -> None:
    """Let a text be read in chunks, if it is not already."""
    if job.long is None:
        whole = job.kind == PROMPT
        job.long = LongText(text=job.text, layer_index=job.layer_index, whole=whole, found=[])
