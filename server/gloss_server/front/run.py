"""A request in the engine, as the front sees it: what has come of it so far, and who waits for it.

Several calls may read one run (the same request_id twice). A reader keeps places of its own in what
the run holds (`stream.py`), so a slow one costs nobody anything, and what comes while it is busy
reaches it in one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager

from gloss_engine.errors import OUT_OF_MEMORY
from gloss_engine.request import Explanation, TextResult
from gloss_server.front.call_error import CallError
from gloss_server.front.labels import EXPLAINING_METHODS
from gloss_server.link.trace_context import TraceContext

_EXPLANATION_BYTES, _TOKEN_BYTES, _VALUE_BYTES = 720, 84, 200
"""What an explanation, each of its tokens and, on average, each small value take as Python objects
(tracemalloc, 64-bit)."""


class Run:
    """Results of one request as they arrive.

    Args:
        num_items: activations or texts; of a text, those that are known.
        num_samples: explanations of each; 0 for texts.
        max_new_tokens: most tokens of an explanation.
        seed: of the draws.
        arrived: when its call arrived, monotonic seconds.
        streams: whether tokens come one by one.
        method: the RPC that began it.
        priority: of its request.
        trace: of the call that began it; None: it is not traced.

    Attributes:
        run_id: its number towards the engine.
        tokens: generated ids by sequence (index * num_samples + sample); streams only.
        explanations, texts: what is finished, in the order in which it finished.
        num_started: activations that began to run.
        num_tokens: tokens of explanations that have ended.
        num_text_tokens, num_target_tokens: tokens the target has read, and generated.
        paths: the contract's names of fields that the engine judges, by the engine's; None: it
            judges none that the front has not.
        started_at, first_token_at, ended_at: monotonic seconds, None before.
        failure: why it ended early, or None.
    """

    def __init__(
        self,
        *,
        run_id: int,
        num_items: int,
        num_samples: int,
        max_new_tokens: int,
        seed: int,
        arrived: float,
        streams: bool,
        method: str = "Verbalize",
        priority: str = "interactive",
        trace: TraceContext | None = None,
    ) -> None:
        self.run_id, self.num_items, self.num_samples = run_id, num_items, num_samples
        self.max_new_tokens, self.seed, self.arrived = max_new_tokens, seed, arrived
        self.streams, self.method, self.priority = streams, method, priority
        self.trace = trace
        self.tokens: list[list[int]] = [[] for _ in range(num_items * num_samples * streams)]
        self.explanations: list[Explanation] = []
        self.texts: list[TextResult] = []
        self.num_started = self.num_tokens = self.num_text_tokens = self.num_target_tokens = 0
        self.paths: Mapping[str, str] | None = None
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.failure: CallError | None = None
        self.num_readers = 0
        self._told: set[Callable[[], None]] = set()

    @property
    def explains(self) -> bool:
        """Whether its times are those of explanations: a Watch's are its target's."""
        return self.num_samples > 0 and self.method in EXPLAINING_METHODS

    @property
    def num_sequences(self) -> int:
        """Explanations it asks for."""
        return self.num_items * self.num_samples

    def waits_since(self, index: int) -> float:
        """When it was known that an item is to run, monotonic seconds."""
        return self.arrived

    @property
    def num_values(self) -> int:
        """Small values that it holds besides explanations."""
        return 0

    @property
    def num_bytes(self) -> int:
        """About what it holds in memory: more than in messages. Explanations that have not ended
        are left out; there are as many as slots, at most."""
        return (
            len(self.explanations) * _EXPLANATION_BYTES
            + self.num_tokens * _TOKEN_BYTES
            + self.num_values * _VALUE_BYTES
        )

    @property
    def num_tokens_come(self) -> int:
        """Tokens generated for explanations, as far as they have come: of one that has not ended
        only a stream brings any."""
        if len(self.explanations) == self.num_sequences:
            return self.num_tokens
        ended = {made.index * self.num_samples + made.sample for made in self.explanations}
        begun = (ids for sequence, ids in enumerate(self.tokens) if sequence not in ended)
        return self.num_tokens + sum(map(len, begun))

    @property
    def is_settled(self) -> bool:
        """Whether another try would bring the same: nothing of it found no memory."""
        return all(explanation.error != OUT_OF_MEMORY for explanation in self.explanations)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.ended_at is not None

    def end(self, at: float, failure: CallError | None = None) -> None:
        """Nothing more will come. Only the first end counts."""
        if self.ended_at is None:
            self.ended_at, self.failure = at, failure
            self.wake()

    def wake(self) -> None:
        """Tell the readers that something came."""
        for tell in self._told:
            tell()

    async def until_ended(self) -> None:
        """Wait for the end.

        Raises:
            CallError: the run's failure.
        """
        async for _ in self.changes():
            if self.has_ended:
                break
        if self.failure is not None:
            raise self.failure

    async def changes(self) -> AsyncIterator[None]:
        """Yields at once, and then whenever something has come since the yield before."""
        event = asyncio.Event()
        with self.telling(event.set):
            while True:
                event.clear()
                yield
                await event.wait()

    @contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call something whenever something has come, while the body runs."""
        self._told.add(tell)
        try:
            yield
        finally:
            self._told.discard(tell)
