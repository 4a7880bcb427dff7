"""Memory of requests on a real server: so many bytes are in flight, and the next are told when."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.server_process import ServerProcess
from support.service_calls import fault, verbalize_request

_LONG = 3600.0
"""Seconds that hundreds of rows one after the other never reach: they would be refused for it."""


def test_requests_in_flight_are_bounded_in_bytes(tmp_path: Path) -> None:
    settings = {"max_queued_bytes": 200_000, "num_slots": 1}
    with ServerProcess(tmp_path / "server.log", settings=settings) as server:
        server.wait_ready()
        d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
        rows = np.random.default_rng(0).normal(size=(120_000 // (4 * d_model), d_model))
        large = verbalize_request(rows, seed=1, max_new_tokens=60)
        first = _begin(server, large)
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Verbalize(large, timeout=_LONG)
        assert fault(caught.value)[:2] == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert "grpc-retry-pushback-ms" in dict(caught.value.trailing_metadata())
        # What is small finds room.
        assert server.stub.Verbalize(verbalize_request(rows[:1], seed=1), timeout=60).explanations
        with pytest.raises(grpc.RpcError) as caught:
            twice = np.concatenate([rows, rows])
            server.stub.Verbalize(verbalize_request(twice, seed=1), timeout=60)
        assert fault(caught.value) == ("INVALID_ARGUMENT", "BATCH_TOO_LARGE", "request")
        first.cancel()
        server.wait_idle()
        second = _begin(server, large)
        second.cancel()
        server.wait_idle()


def _begin(server: ServerProcess, request: pb.VerbalizeRequest) -> grpc.Future:
    """A call that runs."""
    call = server.stub.Verbalize.future(request, timeout=_LONG)
    server.wait_for(lambda: call.done() or server.stats().running > 0)
    assert not call.done(), call.exception()
    return call
