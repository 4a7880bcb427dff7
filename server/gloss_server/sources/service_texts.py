"""Explanations of texts from a server: `gloss explain --address`, and watch.

Each text in flight is a stream that a thread reads. A stream that breaks off because the server is
full, or starts its engine again, is asked for once more, for what is still missing of it; so the
same explanations come whatever happened on the way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from gloss_client import (
    Captured,
    Client,
    ExplainEvent,
    Explanation,
    GlossClientError,
    InvalidRequest,
    ItemError,
    ResourceExhausted,
    RetryPolicy,
    Text,
    TextDelta,
    TextOpened,
    Unavailable,
)
from gloss_engine.capture.positions import MAX_LISTED, Positions
from gloss_engine.text_request import ExplainRequest, TextInput, WatchRequest
from gloss_server.command_error import CommandError
from gloss_server.sources.explanation_options import ExplanationOptions
from gloss_server.sources.service_connection import (
    DEFAULT_SLOTS,
    RUN_SECONDS,
    Patience,
    ServiceConnection,
    command_error,
    sampling_options,
)
from gloss_server.sources.text_source import Came, TextEnded, TextEvent, TextFailed, is_of_text
from gloss_server.terminal import RunProgress

_NUM_TEXTS = 16
_RETRY = RetryPolicy(max_attempts=1)
"""Streams are tried again here. A stream that gRPC tries again while the server says NOT_SERVING
never ends, not even at its deadline (grpcio 1.85.3)."""


class ServiceTexts(ServiceConnection):
    """A server that explains texts. See TextSource for what it can do."""

    def check(self, options: ExplanationOptions) -> None:
        """See TextSource: asks what the server has loaded."""
        self.check_score(options)
        if self.info.target is None:
            raise CommandError(
                f"the server at {self.address} has no target loaded, which reads texts: start it "
                "with gloss serve --target DIR, or add --local to run in this process"
            )

    def open(
        self, options: ExplanationOptions, progress: RunProgress, max_watch_tokens: int = 0
    ) -> StreamedTexts:
        """See TextSource."""
        if max_watch_tokens and not self.info.target_generates:
            raise CommandError(
                f"the target of the server at {self.address} only reads; start it with "
                "target_generates on"
            )
        client = self.connect(_RETRY)
        try:
            num_slots = client.stats().num_slots or DEFAULT_SLOTS
        except GlossClientError as error:
            client.close()
            raise command_error(error) from error
        return StreamedTexts(client, self, options, num_slots)


class StreamedTexts:
    """Streams of a server; a text is one stream. See TextRunner.

    Args:
        client: closed with it.
        service: where it leads.
        options: how explanations are made.
        num_slots: explanations that run at once there.
    """

    def __init__(
        self,
        client: Client,
        service: ServiceConnection,
        options: ExplanationOptions,
        num_slots: int,
    ) -> None:
        limits, most_tokens = service.info.limits, max(options.max_new_tokens, 1)
        # Half of what may queue there is left to others.
        queue = min(limits.max_queued_explanations, limits.max_queued_tokens // most_tokens) // 2
        self.num_texts, self.num_ahead = _NUM_TEXTS, max(min(3 * num_slots, queue), 1)
        self.max_watch_tokens = limits.max_watch_tokens
        self._client, self._service = client, service
        self._pool = ThreadPoolExecutor(_NUM_TEXTS, thread_name_prefix="gloss-text")
        self._came: SimpleQueue[Came | Exception] = SimpleQueue()
        self._closing = threading.Event()

    def submit(self, row: int, request: ExplainRequest | WatchRequest) -> None:
        """See TextRunner."""
        self._pool.submit(self._read, row, request)

    def advance(self) -> list[Came]:
        """Wait for an event, and take all that are there."""
        found = [self._came.get()]
        while True:
            try:
                found.append(self._came.get_nowait())
            except Empty:
                break
        came: list[Came] = []
        for one in found:
            if isinstance(one, Exception):
                raise one
            came.append(one)
        return came

    def close(self) -> None:
        """Cancel what is in flight and let go of the connection."""
        self._closing.set()
        self._client.close()
        self._pool.shutdown(cancel_futures=True)

    def _read(self, row: int, request: ExplainRequest | WatchRequest) -> None:
        """One text, on a thread of the pool."""
        events: Iterator[TextEvent]
        if isinstance(request, ExplainRequest):
            events = self._explain(request)
        else:
            events = self._watch(request)
        try:
            for event in events:
                self._came.put(Came(row=row, event=event))
        except InvalidRequest as error:
            if is_of_text(error.field):
                failure = ItemError(code=error.code, reason=error.reason, message=error.message)
                self._came.put(Came(row=row, event=TextFailed(error=failure)))
            else:
                self._came.put(command_error(error))
        except GlossClientError as error:
            self._came.put(command_error(error))
        except Exception as error:
            self._came.put(error)

    def _explain(self, request: ExplainRequest) -> Iterator[TextEvent]:
        so_far, patience = _SoFar(request), Patience(self._client, self._closing)
        while True:
            try:
                with self._client.stream_explain(
                    _text(request.input),
                    positions=str(so_far.positions()),
                    priority="batch" if request.priority == "batch" else "interactive",
                    **_options(request),
                ) as stream:
                    for event in stream:
                        self._service.check_origin(stream.fingerprint)
                        yield from so_far.take(event)
                yield TextEnded()
                return
            except (ResourceExhausted, Unavailable) as error:
                if so_far.has_begun:
                    patience = Patience(self._client, self._closing)
                if not patience.wait(error):
                    raise

    def _watch(self, request: WatchRequest) -> Iterator[TextEvent]:
        """A watch that has begun is not asked for again: the target would begin anew."""
        positions = request.prompt_positions
        patience, has_begun = Patience(self._client, self._closing), False
        while True:
            try:
                with self._client.watch(
                    _text(request.input),
                    target=sampling_options(request.target_sampling),
                    every=request.every,
                    prompt_positions=None if positions is None else str(positions),
                    max_pending=request.max_pending,
                    tokens_per_second=request.tokens_per_second,
                    **_options(request),
                ) as stream:
                    for event in stream:
                        has_begun = True
                        yield event
                assert stream.summary is not None
                yield TextEnded(skip_counts=stream.summary.skip_counts)
                return
            except (ResourceExhausted, Unavailable) as error:
                if has_begun or not patience.wait(error):
                    raise


class _SoFar:
    """What has come of a text that is explained, perhaps by several streams.

    Args:
        request: as it was submitted.

    Attributes:
        has_begun: the stream that is read now has brought something.
    """

    def __init__(self, request: ExplainRequest) -> None:
        self._request = request
        self._chosen: tuple[int, ...] = ()
        self._ranks: dict[int, int] = {}
        self._captured: set[int] = set()
        self._done: set[tuple[int, int]] = set()
        self._is_first, self._rank_of = True, dict[int, int]()
        self.has_begun = False

    def positions(self) -> Positions:
        """Which positions the next stream is to explain."""
        self._is_first = not self._chosen
        self._rank_of, self.has_begun = {}, False
        counts = Counter(rank for rank, _ in self._done)
        samples = self._request.num_samples
        left = [at for rank, at in enumerate(self._chosen) if counts[rank] < samples]
        # With nothing left only the stream's end is missing.
        if not 1 <= len(left) <= MAX_LISTED:
            return self._request.positions
        return Positions(indices=tuple(left))

    def take(self, event: ExplainEvent) -> Iterator[TextEvent]:
        """The event, by its rank among all chosen positions, if it is new."""
        self.has_begun = True
        if isinstance(event, TextOpened):
            if self._is_first:
                self._chosen = self._request.positions.resolve(len(event.token_ids))
                self._ranks = {position: rank for rank, position in enumerate(self._chosen)}
                yield event
            return
        if isinstance(event, Captured):
            rank = self._rank_of[event.index] = self._ranks[event.place.position]
            if rank not in self._captured:
                self._captured.add(rank)
                yield replace(event, index=rank)
            return
        rank = self._rank_of[event.index]
        if isinstance(event, Explanation) and (rank, event.sample) not in self._done:
            self._done.add((rank, event.sample))
            yield replace(event, index=rank)
        # What another stream has begun to say is not said twice: the explanation will say it all.
        elif isinstance(event, TextDelta) and self._is_first:
            yield replace(event, index=rank)


def _text(given: TextInput) -> Text:
    """A text as the client takes it."""
    if given.text is not None:
        return given.text
    if given.token_ids is not None:
        return given.token_ids
    assert given.messages is not None
    return [{"role": role, "content": content} for role, content in given.messages]


def _options(request: ExplainRequest | WatchRequest) -> dict[str, Any]:
    """How explanations are made, as the client takes it."""
    return {
        **sampling_options(request.sampling),
        "num_samples": request.num_samples,
        "score": request.score,
        "timeout": RUN_SECONDS,
    }
