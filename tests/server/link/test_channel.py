"""The channel between front and engine: cut anywhere, merged in any way, closed at any moment."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import tracemalloc

import numpy as np
import pytest

from gloss_engine.request import VerbalizeRequest
from gloss_server.link.channel import Closed, EngineChannel, encode, read_message
from gloss_server.link.messages import Alive, Commands, Failed, Submit


def _commands(number: int, num_rows: int = 2) -> Commands:
    request = VerbalizeRequest(activations=np.full((num_rows, 5), number, np.float32))
    return Commands(
        submits=[Submit(run_id=number, request=request, sent=0.0)], cancels=[number - 1]
    )


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_messages_cut_at_every_byte(ends: tuple[socket.socket, socket.socket]) -> None:
    front, theirs = ends
    channel = EngineChannel(theirs)
    content = b"".join(encode(_commands(number)) for number in range(3))
    received = []
    with front, theirs:
        for byte in content:
            front.sendall(bytes([byte]))
            received += channel.receive(0)
    assert [m.cancels for m in received if isinstance(m, Commands)] == [[-1], [0], [1]]


def test_everything_that_has_arrived_comes_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    front, theirs = ends
    with front, theirs:
        for number in range(5):
            front.sendall(encode(_commands(number)))
        received = EngineChannel(theirs).receive(None)
    assert len(received) == 5
    assert isinstance(received[4], Commands)
    rows = received[4].submits[0].request.activations  # type: ignore[union-attr]
    np.testing.assert_array_equal(rows, np.full((2, 5), 4, np.float32))


def test_a_message_larger_than_the_socket(ends: tuple[socket.socket, socket.socket]) -> None:
    front, theirs = ends
    with front, theirs:
        sent = encode(_commands(1, num_rows=500_000))
        sender = threading.Thread(target=front.sendall, args=(sent,))
        sender.start()
        (received,) = EngineChannel(theirs).receive(10)
        sender.join()
    assert isinstance(received, Commands)
    assert received.submits[0].request.activations.shape == (500_000, 5)  # type: ignore[union-attr]


def test_nothing_arrives(ends: tuple[socket.socket, socket.socket]) -> None:
    front, theirs = ends
    with front, theirs:
        assert EngineChannel(theirs).receive(0.01) == []


def test_a_high_descriptor(ends: tuple[socket.socket, socket.socket]) -> None:
    """A front with thousands of connections hands down numbers that select() cannot take."""
    front, theirs = ends
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 5000), hard))
    try:
        high = os.dup2(theirs.fileno(), 3000)
        with front, theirs, socket.socket(fileno=high) as moved:
            front.sendall(encode(_commands(7)))
            (received,) = EngineChannel(moved).receive(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert isinstance(received, Commands) and received.cancels == [6]


@pytest.mark.parametrize("sent", [b"", b"\x05", encode(_commands(1))[:-1]])
def test_the_front_is_gone(ends: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    front, theirs = ends
    front.sendall(sent)
    front.close()
    channel = EngineChannel(theirs)
    with theirs, pytest.raises(Closed):
        channel.receive(1)
        channel.receive(1)


def test_sending_to_nobody(ends: tuple[socket.socket, socket.socket]) -> None:
    front, theirs = ends
    front.close()
    with theirs, pytest.raises(Closed):
        for _ in range(3):
            EngineChannel(theirs).send(Alive())


@pytest.mark.parametrize("cut", [0, 3, 20])
def test_the_engine_is_gone(ends: tuple[socket.socket, socket.socket], cut: int) -> None:
    front, theirs = ends
    whole = encode(Failed(message="no such file", is_refusal=True))

    async def read() -> None:
        reader, writer = await asyncio.open_unix_connection(sock=front)
        message = await read_message(reader)
        assert isinstance(message, Failed) and message.message == "no such file"
        with pytest.raises(Closed):
            await read_message(reader)
        writer.close()

    with theirs:
        theirs.sendall(whole + whole[:cut])
        theirs.close()
        asyncio.run(read())


def test_activations_are_copied_once() -> None:
    """32 MiB take the memory of what is sent, and no more of it for a moment."""
    commands = _commands(1, num_rows=1_000_000)
    tracemalloc.start()
    try:
        sent = encode(commands)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.5 * len(sent)
