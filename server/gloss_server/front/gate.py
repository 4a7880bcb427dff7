"""Who is let in, by kind of request: bounds on all that a request takes, then its client's rate.

What is checked is taken at once; nothing happens in between. A Permit gives it back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gloss_engine.request import TextRequest, VerbalizeRequest
from gloss_engine.text_request import ExplainRequest, WatchRequest
from gloss_server.front.admission import Admission, share
from gloss_server.front.permit import ExplainPermit, Permit, WatchPermit
from gloss_server.front.rate_limit import OwnRate, RateLimit
from gloss_server.front.result_memory import RunName
from gloss_server.front.room import Room
from gloss_server.link.trace_context import TraceContext
from gloss_server.settings import ServeSettings

_WATCH_RETRY_SECONDS = 2.0
"""A Watch lasts for seconds to minutes."""
_TEXT_RETRY_SECONDS = 0.5
"""A text is read within a few steps."""
_TOKEN_BYTES = 4
"""About the UTF-8 bytes of a token; characters would charge Chinese a third of English. The engine
counts the tokens of texts for the AR, and says nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        request_id: the caller's name for the request; empty: nobody can join it.
        digest: of all that was sent.
        client: whose rate it counts against.
        owner: client whose request_ids are its own, as it has proved to be it; empty: they are
            everybody's.
        arrived, deadline: monotonic seconds.
        trace: of the call; None: it is not traced.
    """

    request_id: str
    digest: bytes
    client: str
    arrived: float
    deadline: float
    owner: str = ""
    trace: TraceContext | None = None

    @property
    def run_name(self) -> RunName | None:
        """What its run is remembered by; None: nobody can join it."""
        return RunName(self.owner, self.request_id) if self.request_id else None


class Gate:
    """The bounds of one server.

    Args:
        settings: what they are.
        own_rate: a client's tokens per second in place of the settings'.

    Attributes:
        admission: of explanations; it hears how fast they drain.
        requests: of the bytes of requests in flight.
    """

    def __init__(self, settings: ServeSettings, own_rate: OwnRate | None = None) -> None:
        self.admission = Admission(
            settings.max_queued_explanations,
            settings.max_queued_tokens,
            batch_room=settings.batch_queue_share,
            batch_share=settings.batch_share,
        )
        self.requests = Room({"bytes of requests": settings.max_queued_bytes})
        self._texts = Room({"texts": settings.max_queued_explanations})
        self._reading = Room({"tokens of texts": settings.max_queued_text_tokens})
        self._watches = Room({"watches": settings.max_queued_watches})
        self._rates = RateLimit(
            settings.client_tokens_per_second, settings.client_burst_seconds, own_rate=own_rate
        )

    def rooms(self) -> dict[str, tuple[Room, int]]:
        """Where each of labels.RESOURCES is counted: a room, and a place in it."""
        return {
            "explanations": (self.admission.room, 0),
            "tokens": (self.admission.room, 1),
            "texts": (self._texts, 0),
            "text_tokens": (self._reading, 0),
            "watches": (self._watches, 0),
            "request_bytes": (self.requests, 0),
        }

    def verbalize(self, request: VerbalizeRequest, caller: Caller) -> Permit:
        """Let activations in.

        Raises:
            CallError: refused, as by all methods here.
        """
        num_explanations = len(request.activations) * request.num_samples
        most, now = request.sampling.max_new_tokens, time.monotonic()
        admission, is_batch = self.admission, request.priority == "batch"
        remaining = caller.deadline - now
        admission.check(num_explanations, most, remaining, is_batch=is_batch)
        self._rates.charge(caller.client, num_explanations * most)
        return Permit(
            pace=admission.pace,
            promise=admission.promise(num_explanations, most, remaining, now, is_batch),
            rates=self._rates,
            client=caller.client,
            charged=num_explanations * most,
            results=admission.admit(num_explanations, most, is_batch),
            each=share(most, is_batch),
            waiting=admission.wait(num_explanations, is_batch),
        )

    def texts(self, request: TextRequest, caller: Caller) -> Permit:
        """Let texts for the AR in. Their tokens are paid for, read or not: they are soon read."""
        num_texts = len(request.texts)
        retry_after = self.admission.retry_after()
        self._texts.check(num_texts, field="texts", retry_after=retry_after)
        num_tokens = sum(len(text.encode()) // _TOKEN_BYTES + 1 for text in request.texts)
        self._rates.charge(caller.client, num_tokens)
        return Permit(rates=self._rates, results=self._texts.take(num_texts), each=(1,))

    def explain(
        self, request: ExplainRequest, num_text_tokens: int, caller: Caller
    ) -> ExplainPermit:
        """Let a text in whose number of activations is not known yet.

        Args:
            num_text_tokens: most tokens it can have.
        """
        most, num_samples = request.sampling.max_new_tokens, request.num_samples
        is_batch = request.priority == "batch"
        remaining = caller.deadline - time.monotonic()
        self.admission.check(num_samples, most, remaining, is_batch=is_batch)
        self._check_text(num_text_tokens, "input")
        self._rates.charge(caller.client, 0)
        return ExplainPermit(
            pace=self.admission.pace,
            rates=self._rates,
            client=caller.client,
            results=self.admission.admit(num_samples, most, is_batch),
            each=share(most, is_batch),
            admission=self.admission,
            text=self._reading.take(num_text_tokens),
            num_samples=num_samples,
            max_new_tokens=most,
            field="positions",
            deadline=caller.deadline,
            is_batch=is_batch,
        )

    def watch(self, request: WatchRequest, num_text_tokens: int, caller: Caller) -> WatchPermit:
        """Let a Watch in. It lasts as long as its target speaks, so no deadline is too near.

        Args:
            num_text_tokens: most tokens its prompt can have.
        """
        assert request.max_pending is not None
        most, num_samples = request.sampling.max_new_tokens, request.num_samples
        num_explanations = request.max_pending * num_samples
        self._watches.check(1, field="prompt", retry_after=_WATCH_RETRY_SECONDS)
        self.admission.check(num_explanations, most, None, "max_pending")
        self._check_text(num_text_tokens, "prompt")
        charged = num_explanations * most + request.target_sampling.max_new_tokens
        self._rates.charge(caller.client, charged)
        room = self.admission.admit(num_explanations, most)
        permit = WatchPermit(
            rates=self._rates,
            client=caller.client,
            charged=charged,
            each=share(most),
            others=(self._watches.take(1), room),
            admission=self.admission,
            text=self._reading.take(num_text_tokens),
            num_samples=num_samples,
            max_new_tokens=most,
            field="prompt_positions",
            max_pending=request.max_pending,
        )
        permit.set_idle(num_explanations)
        return permit

    def capture(self, num_text_tokens: int, caller: Caller) -> Permit:
        """Let a call in that reads texts piece by piece.

        Args:
            num_text_tokens: most tokens of what it has in flight at a time.
        """
        self._check_text(num_text_tokens, "inputs")
        self._rates.charge(caller.client, 0)
        room = self._reading.take(num_text_tokens)
        return Permit(rates=self._rates, client=caller.client, others=(room,))

    def _check_text(self, num_tokens: int, field: str) -> None:
        self._reading.check(num_tokens, field=field, retry_after=_TEXT_RETRY_SECONDS)
