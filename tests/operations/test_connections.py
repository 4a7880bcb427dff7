"""Connections that only stand there, on a real server: so many are served, and no more are open."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1.gloss_pb2_grpc import GlossServiceStub
from gloss_server.front import descriptors
from support.server_process import ServerProcess

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""Of HTTP/2, and empty settings."""
_SECONDS = 60


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


def test_ten_thousand_idle_connections_are_served(tmp_path: Path, sockets: ExitStack) -> None:
    count = 10_000
    assert descriptors.raise_limit(count + descriptors.OWN) >= count + descriptors.OWN
    with ServerProcess(tmp_path / "server.log") as server:
        server.wait_ready()
        # One is the test's own.
        opened = _open(server.address, count - 1, sockets)
        assert all(map(_is_served, opened))
        assert server.stats().calls_in_flight == 1
        # One more is closed, and those that are open live.
        (more,) = _open(server.address, 1, sockets)
        assert not _is_served(more)
        assert server.stats().calls_in_flight == 1
        sockets.close()
        with grpc.insecure_channel(server.address) as channel:
            stub = GlossServiceStub(channel)
            stats = stub.GetStats(pb.GetStatsRequest(), timeout=_SECONDS, wait_for_ready=True)
            assert stats.calls_in_flight == 1
        assert not server.events("few_file_descriptors")


def test_too_few_descriptors_are_said(tmp_path: Path) -> None:
    settings = {"max_connections": 2**31 - 2}
    with ServerProcess(tmp_path / "server.log", settings=settings) as server:
        server.wait_ready()
        (said,) = server.events("few_file_descriptors")
        assert said["level"] == "warning" and said["expected"] > said["got"] > 0
        assert "max_connections" in said["fix"]
        # It serves all the same.
        assert server.stats().calls_in_flight == 1
