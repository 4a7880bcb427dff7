"""Messages over a socket pair: an 8-byte length, then a pickle.

Pickle is safe here and nowhere else: the socket has no name, and its two ends are held by the front
and by the engine it started, which run the same code as the same user. Bytes from callers never
pass: the front has parsed and checked them into numbers and text before.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import selectors
import socket
import struct
from typing import cast

from gloss_server.link.messages import FromEngine, ToEngine

_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20


class Closed(Exception):
    """The other process is gone."""


def encode(message: ToEngine | FromEngine) -> bytes:
    """A message as it travels."""
    # In place: activations of 32 MiB are copied once.
    content = io.BytesIO()
    content.seek(_LENGTH.size)
    pickle.dump(message, content, protocol=5)
    with content.getbuffer() as view:
        _LENGTH.pack_into(view, 0, len(view) - _LENGTH.size)
    return content.getvalue()


async def read_message(reader: asyncio.StreamReader) -> FromEngine:
    """The next message from an engine.

    Raises:
        Closed: the engine is gone, perhaps in the middle of a message.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        payload = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Closed from error
    return cast(FromEngine, pickle.loads(payload))


class EngineChannel:
    """The engine's end: blocking, one thread.

    Args:
        sock: connected stream socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # Not select(): a front with many connections may have handed down a number over 1,023.
        self._arrivals = selectors.DefaultSelector()
        self._arrivals.register(sock, selectors.EVENT_READ)
        self._buffer = bytearray()

    def send(self, message: FromEngine) -> None:
        """Send, waiting for room.

        Raises:
            Closed: the front is gone.
        """
        try:
            self._socket.sendall(encode(message))
        except OSError as error:
            raise Closed from error

    def receive(self, timeout: float | None) -> list[ToEngine]:
        """Everything that has arrived.

        Args:
            timeout: how long to wait for a first message, seconds; None: for ever.

        Raises:
            Closed: the front is gone.
        """
        messages = self._complete()
        while not messages:
            if not self._arrivals.select(timeout):
                return []
            self._read()
            messages = self._complete()
        while self._arrivals.select(0):
            self._read()
        return messages + self._complete()

    def _read(self) -> None:
        try:
            received = self._socket.recv(_CHUNK_BYTES)
        except OSError as error:
            raise Closed from error
        if not received:
            raise Closed
        self._buffer += received

    def _complete(self) -> list[ToEngine]:
        """Messages that are whole."""
        messages, at = [], 0
        while len(self._buffer) >= at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payload = memoryview(self._buffer)[at + _LENGTH.size : end]
            messages.append(cast(ToEngine, pickle.loads(payload)))
            payload.release()
            at = end
        del self._buffer[:at]
        return messages
