"""No descriptor is left: calls on connections that are there go on, new ones come again later."""

from __future__ import annotations

import os
import resource
import socket
import time
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

_MEASURED_SECONDS = 2.0
ROWS = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "log") as server:
        yield server.wait_ready()
        check(server)


def _cpu_seconds(pid: int) -> float:
    """Of its user and of the kernel, for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_descriptors_run_out(server: ServerProcess) -> None:
    request = verbalize_request(ROWS, max_new_tokens=5, seed=1)
    before = server.stub.Verbalize(request).explanations
    pid = server.process.pid
    host, port = server.address.rsplit(":", 1)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    num_open = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (num_open, limits[1]))
    try:
        with server.open_channel(_OWN) as channel:
            stub = gloss_pb2_grpc.GlossServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetStats(pb.GetStatsRequest(), timeout=2)
            assert caught.value.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
            # What waits to be accepted keeps the listener busy, but not all the time.
            used, began = _cpu_seconds(pid), time.monotonic()
            with socket.create_connection((host, int(port)), 5):
                time.sleep(_MEASURED_SECONDS)
            share = (_cpu_seconds(pid) - used) / (time.monotonic() - began)
            assert share < 0.5, f"{share:.0%} of a core"
            during = server.stub.Verbalize(request, timeout=30).explanations
            assert [e.token_ids for e in during] == [e.token_ids for e in before]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            # It comes back by itself, without a new attempt by hand.
            assert stub.GetStats(pb.GetStatsRequest(), timeout=30, wait_for_ready=True)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert not server.events("engine_died")


_OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000))
