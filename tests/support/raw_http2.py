"""HTTP/2 by hand, for what no gRPC client lets out: metadata and bytes that it refuses itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from gloss_server.address import Address

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0x0, 0x1, 0x3, 0x4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x6, 0x7, 0x8, 0x9
_NO_ERROR, _CANCEL = struct.pack(">I", 0x0), struct.pack(">I", 0x8)
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_HEADER_TABLE_SIZE = 0x1
_FRAME_BYTES = 16_384
Header = tuple[bytes, bytes]


class RawConnection:
    """One connection; a call is a stream of its own.

    Args:
        address: HOST:PORT, in the clear.
    """

    def __init__(self, address: str) -> None:
        where = Address.parse(address)
        self._socket = socket.create_connection((where.host, where.port), timeout=10)
        self._next_stream = 1
        self._received = b""
        self._headers: dict[int, bytes] = {}
        self._ended: set[int] = set()
        # No table: else a header that came before is a number, which takes a decoder to know.
        settings = struct.pack(">HI", _HEADER_TABLE_SIZE, 0)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings))

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def call(self, path: str, headers: Sequence[Header] = (), message: bytes = b"") -> int:
        """Begin a call of one request; its stream."""
        stream = self.open(path, headers)
        self._socket.sendall(_frame(_DATA, _END_STREAM, stream, _prefixed(message)))
        return stream

    def cut_off(
        self, path: str, message: bytes, num_bytes: int, headers: Sequence[Header] = ()
    ) -> int:
        """Begin a call whose request ends after so many bytes of it; its stream."""
        stream = self.open(path, headers)
        self._socket.sendall(_frame(_DATA, 0, stream, _prefixed(message)[:num_bytes]))
        return stream

    def open(self, path: str, headers: Sequence[Header] = ()) -> int:
        """Begin a call of whose request nothing is sent; its stream."""
        stream = self._next_stream
        self._next_stream += 2
        block = b"".join(
            _literal(name, value)
            for name, value in (
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", path.encode()),
                (b":authority", b"localhost"),
                (b"te", b"trailers"),
                (b"content-type", b"application/grpc"),
                *headers,
            )
        )
        parts = [block[at : at + _FRAME_BYTES] for at in range(0, len(block), _FRAME_BYTES)]
        for index, part in enumerate(parts):
            kind = _CONTINUATION if index else _HEADERS
            flags = _END_HEADERS if index == len(parts) - 1 else 0
            self._socket.sendall(_frame(kind, flags, stream, part))
        return stream

    def widen(self, stream: int) -> None:
        """Take a MiB more of what a call answers than the 65,535 bytes that HTTP/2 begins with."""
        for number in (0, stream):
            self._socket.sendall(_frame(_WINDOW_UPDATE, 0, number, struct.pack(">I", 1 << 20)))

    def cancel(self, stream: int) -> None:
        """Give a call up."""
        self._socket.sendall(_frame(_RST_STREAM, 0, stream, _CANCEL))

    def vanish(self) -> None:
        """Be gone as a process that crashes: no goodbye, and what is under way is lost."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def wait_end(self, stream: int) -> None:
        """Wait until the server has ended a call.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        while stream not in self._ended:
            self._read_frame()

    def status(self, stream: int) -> int:
        """Wait for a call's gRPC status.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        self.wait_end(stream)
        block, name = self._headers[stream], _string(b"grpc-status")
        at = block.rindex(name) + len(name)
        length = block[at]
        return int(block[at + 1 : at + 1 + length])

    def _read_frame(self) -> None:
        head = self._read(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        payload = self._read(length)
        if kind == _SETTINGS and not flags & _ACK:
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY and payload[4:8] != _NO_ERROR:
            raise ConnectionError(f"GOAWAY: {payload[8:]!r}")
        elif kind in (_HEADERS, _CONTINUATION):
            self._headers[stream] = self._headers.get(stream, b"") + payload
        if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._ended.add(stream)

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise ConnectionError("closed by the server")
            self._received += chunk
        taken, self._received = self._received[:count], self._received[count:]
        return taken


def _prefixed(message: bytes) -> bytes:
    """A message of gRPC, not compressed."""
    return b"\0" + struct.pack(">I", len(message)) + message


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes((kind, flags))
        + struct.pack(">I", stream)
        + payload
    )


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that is not kept in HPACK's table, without Huffman's code."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:
        return bytes((length,)) + text
    coded, length = bytearray((127,)), length - 127
    while length >= 128:
        coded.append(length % 128 + 128)
        length //= 128
    return bytes(coded) + bytes((length,)) + text
