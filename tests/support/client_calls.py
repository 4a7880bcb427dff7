"""What the clients of a test say of their calls: how many they made of each method, how each ended.

A channel of `ClientCalls.recording` tells of the calls made on it. Clients that are killed, that
write bytes by hand, or that have channels of their own tell nothing: `add` says what they called.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from gloss_api.v1 import gloss_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"]
_STATUS_DETAILS = "grpc-status-details-bin"
Metadata = Sequence[tuple[str, str]]
Ends = Counter[tuple[str, str]]
"""How many calls ended: by code and method."""


@dataclass(kw_only=True)
class Tally:
    """Calls that have ended, as their clients say.

    Attributes:
        answered: the server said how: with OK, or with a status that has its details.
        begun: by method; given up, or lost, after the server was heard of: it knows of each.
        lost: by method; given up, or lost, before: the server may never have heard of it.
    """

    answered: Ends = field(default_factory=Counter)
    begun: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def since(self, before: Tally) -> Tally:
        """What came after `before`."""
        return Tally(
            answered=self.answered - before.answered,
            begun=self.begun - before.begun,
            lost=self.lost - before.lost,
        )

    def disagreements(self, counted: Ends) -> list[str]:
        """Where a server that was called by these clients alone counted otherwise; best none."""
        found = []
        for method in _SERVICE.methods_by_name:
            answered = {key: n for key, n in self.answered.items() if key[1] == method}
            server = {key: n for key, n in counted.items() if key[1] == method}
            rest = sum(server.values()) - sum(answered.values())
            least, most = self.begun[method], self.begun[method] + self.lost[method]
            if any(server.get(key, 0) < n for key, n in answered.items()) or not (
                least <= rest <= most
            ):
                found.append(
                    f"{method}: clients were answered {answered}, and gave up {least} to {most} "
                    f"more; the server counted {server}"
                )
        return found


class ClientCalls:
    """The calls of a server's clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = Tally()
        self._num_open = 0
        self._ended_again: list[str] = []

    def recording(self, channel: grpc.Channel, metadata: Metadata = ()) -> grpc.Channel:
        """The same channel, which tells of its calls.

        Args:
            metadata: shown by all of them.
        """
        return grpc.intercept_channel(channel, _Recorder(self._begin, tuple(metadata)))

    def add(self, method: str, count: int = 1) -> None:
        """Calls that the server heard of, by clients that cannot tell how they ended."""
        with self._lock:
            self._ended.begun[method] += count

    def add_lost(self, method: str) -> None:
        """A call that the server may not have heard of, as gRPC itself answered it."""
        with self._lock:
            self._ended.lost[method] += 1

    @property
    def num_open(self) -> int:
        """Calls that have not ended."""
        assert not self._ended_again, f"ended twice: {self._ended_again}"
        return self._num_open

    def tally(self) -> Tally:
        """Those that have ended so far."""
        with self._lock:
            return self._ended.since(Tally())

    def _begin(self, path: str) -> _Entry:
        with self._lock:
            self._num_open += 1
        # Those of other services keep their paths.
        return _Entry(path.removeprefix(f"/{_SERVICE.full_name}/"), self._end)

    def _end(self, entry: _Entry, call: Any) -> None:
        code = _answer(call)
        with self._lock:
            if entry.has_ended:
                self._ended_again.append(entry.method)
                return
            entry.has_ended = True
            self._num_open -= 1
            if code is not None:
                self._ended.answered[code, entry.method] += 1
            elif entry.has_begun:
                self._ended.begun[entry.method] += 1
            else:
                self._ended.lost[entry.method] += 1


def _answer(call: Any) -> str | None:
    """The code that the server gave; a client's own, as it gave the call up, may be another."""
    if call.code() == grpc.StatusCode.OK:
        return "OK"
    for key, value in call.trailing_metadata() or ():
        if key == _STATUS_DETAILS:
            return code_pb2.Code.Name(status_pb2.Status.FromString(value).code)
    return None


class _Entry:
    """One call."""

    def __init__(self, method: str, end: Callable[[_Entry, Any], None]) -> None:
        self.method, self._end = method, end
        self.has_begun = self.has_ended = False

    def ended(self, call: Any) -> None:
        """Its status is there."""
        self._end(self, call)


class _Stream:
    """A stream whose reader is noticed; all else is the call's own."""

    def __init__(self, call: Any, entry: _Entry) -> None:
        self._call, self._entry = call, entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        message = next(self._call)
        self._entry.has_begun = True
        return message


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    """Of a call, with more metadata."""

    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Recorder(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Tells of the calls of a channel."""

    def __init__(self, begin: Callable[[str], _Entry], metadata: tuple[Any, ...]) -> None:
        self._begin, self._metadata = begin, metadata

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """See grpc.UnaryUnaryClientInterceptor."""
        entry = self._begin(details.method)
        call = continuation(self._shown(details), request)
        call.add_done_callback(entry.ended)
        return call

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """See grpc.UnaryStreamClientInterceptor."""
        entry = self._begin(details.method)
        call = continuation(self._shown(details), request)
        call.add_done_callback(entry.ended)
        return _Stream(call, entry)

    # All that streams does so in the same way.
    intercept_stream_stream = intercept_unary_stream

    def _shown(self, details: Any) -> Any:
        if not self._metadata:
            return details
        return _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *self._metadata),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
