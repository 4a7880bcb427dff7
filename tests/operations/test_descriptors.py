"""No descriptor is left: calls on connections that are there go on, new ones come again later."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from support.invariants import check
from support.server_process import ServerProcess
from support.service_calls import verbalize_request

ROWS = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "log") as server:
        yield server.wait_ready()
        check(server)


def test_descriptors_run_out(server: ServerProcess) -> None:
    request = verbalize_request(ROWS, max_new_tokens=5, seed=1)
    before = server.stub.Verbalize(request).explanations
    pid = server.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    num_open = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (num_open, limits[1]))
    try:
        with grpc.insecure_channel(server.address, options=_OWN) as channel:
            stub = gloss_pb2_grpc.GlossServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetStats(pb.GetStatsRequest(), timeout=2)
            assert caught.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            during = server.stub.Verbalize(request, timeout=30).explanations
            assert [e.token_ids for e in during] == [e.token_ids for e in before]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            # It comes back by itself, without a new attempt by hand.
            assert stub.GetStats(pb.GetStatsRequest(), timeout=30, wait_for_ready=True)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert not server.events("engine_died")


_OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000))
