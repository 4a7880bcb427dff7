"""Every kind of call and every kind of end, against a server with the embedded pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from support.server_process import ServerProcess
from support.service_calls import fault, stream_request, tensor, verbalize_request
from support.text_calls import (
    STORY,
    Captured,
    Told,
    capture_request,
    explain_request,
    listed,
    watch_request,
)

SETTINGS: dict[str, object] = {
    "max_queued_explanations": 1000,
    # 90,000 at once, of which the large call asks for 160,000: half a minute until there is more.
    "client_tokens_per_second": 2_000,
    "client_burst_seconds": 45,
    # Few, so that activations wait, and the large call lasts until somebody has looked.
    "num_slots": 8,
}
"""Of a server whose queue and whose clients one large call fills."""


class MixedLoad:
    """Calls as several clients would make them.

    Args:
        server: takes them; it has SETTINGS.
        rows: [n, d_model] activations, 800 or more.
    """

    def __init__(self, server: ServerProcess, rows: np.ndarray) -> None:
        self._stub, self._server, self._rows = server.stub, server, rows

    def good(self) -> None:
        """Calls that end well, of every method and priority."""
        stub, rows = self._stub, self._rows
        interactive = verbalize_request(rows[:20], max_new_tokens=24, seed=1)
        batch = verbalize_request(rows[:40], max_new_tokens=24, seed=2)
        batch.priority = pb.PRIORITY_BATCH
        both = [stub.Verbalize.future(each, timeout=30) for each in (batch, interactive)]
        for call in both:
            call.result()
        list(stub.StreamVerbalize(stream_request(rows[:4], max_new_tokens=16), timeout=30))
        Told.by(stub.Explain(explain_request(positions=listed(3, 5, -1)), timeout=30))
        Told.by(stub.Watch(watch_request(target_options={"max_new_tokens": 24}), timeout=30))
        Captured.by(stub.Capture(capture_request(STORY, STORY), timeout=30))
        stub.Reconstruct(pb.ReconstructRequest(texts=["Leo is a tailor."]), timeout=30)
        score = pb.ScoreRequest(texts=["Leo is a tailor."], activations=tensor(rows[:1]))
        stub.Score(score, timeout=30)
        stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=30)
        stub.GetStats(pb.GetStatsRequest(), timeout=30)

    def bad(self, look: Callable[[], object]) -> None:
        """Calls and activations that fail, each for its own reason.

        Args:
            look: called while the queue is full.
        """
        stub, rows = self._stub, self._rows
        broken = rows[:3].copy()
        broken[0], broken[1, 3] = 0, np.nan
        stub.Verbalize(verbalize_request(broken, max_new_tokens=4), timeout=30)
        # Ends before its closing tag.
        stub.Verbalize(verbalize_request(rows[:2], max_new_tokens=2), timeout=30)
        expect("DIMENSION_MISMATCH", lambda: self._verbalize(rows[:, :5]))
        expect("DEADLINE_UNREACHABLE", lambda: self._verbalize(rows[:800], 0.5))
        self._expire()
        self._fill(look)

    def _verbalize(self, rows: np.ndarray, timeout: float = 30, **options: Any) -> None:
        self._stub.Verbalize(verbalize_request(rows, **options), timeout=timeout)

    def _expire(self) -> None:
        # Twenty tokens a second: it has not said all it may by then.
        request = watch_request(target_options={"max_new_tokens": 200}, tokens_per_second=20.0)
        stream = self._stub.Watch(request, timeout=1.0)
        try:
            list(stream)
        except grpc.RpcError:
            # grpc ends it at the deadline itself, whatever the server says.
            assert stream.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    def _fill(self, look: Callable[[], object]) -> None:
        """A call that fills the queue, and its client's bucket, and is given up."""
        with self._given_up(stream_request(self._rows[:800], seed=3)) as stream:
            next(stream)
            # With time for all of them: it is not for want of it that they are refused.
            expect("QUEUE_FULL", lambda: self._verbalize(self._rows[:250], 600))
            expect("RATE_LIMITED", lambda: self._verbalize(self._rows[:1], 600))
            look()

    @contextmanager
    def _given_up(self, request: pb.StreamVerbalizeRequest) -> Iterable[Any]:
        stream = self._stub.StreamVerbalize(request, timeout=600)
        yield stream
        stream.cancel()
        self._server.wait_idle()


def expect(reason: str, call: Callable[[], object]) -> None:
    """A call that fails for this reason."""
    try:
        call()
    except grpc.RpcError as error:
        assert fault(error)[1] == reason, fault(error)
    else:
        raise AssertionError(f"got OK, expected {reason}")
