"""Connections that only stand there, on a real server: so many are served, and no more are open."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1.gloss_pb2_grpc import GlossServiceStub
from gloss_server.front import descriptors
from gloss_server.front.server import ADMIN_CONNECTIONS
from support.invariants import CheckedServer
from support.service_calls import SERVING, health, verbalize_request

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""Of HTTP/2, and empty settings."""
_SECONDS = 60
_OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
_BYTES_EACH = 64 * 1024


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes what is opened."""
    with ExitStack() as stack:
        yield stack


def _open(address: str, count: int, stack: ExitStack) -> list[socket.socket]:
    host, port = address.rsplit(":", 1)
    opened = []
    for _ in range(count):
        connection = stack.enter_context(socket.create_connection((host, int(port)), _SECONDS))
        connection.sendall(_PREFACE)
        opened.append(connection)
    return opened


def _is_served(connection: socket.socket) -> bool:
    """Whether the server has sent its settings, and has not closed."""
    try:
        return len(connection.recv(9)) == 9
    except ConnectionError:
        return False


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_ten_thousand_idle_connections_are_served(tmp_path: Path, sockets: ExitStack) -> None:
    count = 10_000
    assert descriptors.raise_limit(count + descriptors.OWN) >= count + descriptors.OWN
    with CheckedServer(tmp_path / "server.log") as server:
        server.wait_ready()
        request = verbalize_request(np.ones((1, 128), np.float32), max_new_tokens=3, seed=1)
        before = server.stub.Verbalize(request, timeout=_SECONDS).explanations
        resident = _resident_bytes(server.process.pid)
        # One is the test's own, another a caller's who comes last.
        opened = _open(server.address, count - 2, sockets)
        assert all(map(_is_served, opened))
        each = (_resident_bytes(server.process.pid) - resident) / len(opened)
        assert each < _BYTES_EACH, f"{each:.0f} bytes"
        with server.open_channel(_OWN) as channel:
            stub = GlossServiceStub(channel)
            beside = stub.Verbalize(request, timeout=_SECONDS, wait_for_ready=True).explanations
            assert beside[0].token_ids == before[0].token_ids
            # One more is closed, and those that are open live.
            (more,) = _open(server.address, 1, sockets)
            assert not _is_served(more)
            assert server.stats().calls_in_flight == 1
        sockets.close()
        with server.open_channel(_OWN) as channel:
            stub = GlossServiceStub(channel)
            stats = stub.GetStats(pb.GetStatsRequest(), timeout=_SECONDS, wait_for_ready=True)
            assert stats.calls_in_flight == 1
        assert not server.events("few_file_descriptors")


def test_one_that_leaves_makes_room_for_one(tmp_path: Path, sockets: ExitStack) -> None:
    flags: dict[str, object] = {"admin-address": "127.0.0.1:0"}
    settings: dict[str, object] = {"max_connections": 4}
    with CheckedServer(tmp_path / "server.log", flags, settings) as server:
        server.wait_ready()
        # The first is the test's own.
        assert server.stats().calls_in_flight == 1
        opened = _open(server.address, 3, sockets)
        assert all(map(_is_served, opened))
        with server.open_channel(_OWN) as channel:
            stub = GlossServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetStats(pb.GetStatsRequest(), timeout=_SECONDS)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            waiting = stub.GetStats.future(
                pb.GetStatsRequest(), timeout=_SECONDS, wait_for_ready=True
            )
            # Probes have connections of their own, and no more of them than they need.
            with grpc.insecure_channel(server.ports["admin"]) as admin:
                assert health(admin) == SERVING
                probes = _open(server.ports["admin"], ADMIN_CONNECTIONS, sockets)
                assert [_is_served(probe) for probe in probes].count(False) == 1
                assert health(admin) == SERVING
            assert not waiting.done()
            opened[0].close()
            assert waiting.result().calls_in_flight == 1
            (more,) = _open(server.address, 1, sockets)
            assert not _is_served(more)
            assert server.stats().calls_in_flight == 1


def test_too_few_descriptors_are_said(tmp_path: Path) -> None:
    flags: dict[str, object] = {"admin-address": "127.0.0.1:0"}
    settings = {"max_connections": 2**31 - 2}
    with CheckedServer(tmp_path / "server.log", flags, settings) as server:
        server.wait_ready()
        (said,) = server.events("few_file_descriptors")
        assert said["level"] == "warning" and said["expected"] > said["got"] > 0
        assert said["expected"] == 2**31 - 2 + ADMIN_CONNECTIONS + descriptors.OWN
        assert "max_connections" in said["fix"]
        # It serves all the same.
        assert server.stats().calls_in_flight == 1
