"""What clients do wrong, a little of all of it, beside a soak's load: each with the statuses that
it may end with."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import grpc
import numpy as np
from load_calls import LoadCaller, Work, open_channel
from numpy.typing import NDArray
from server_process import children

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc

_REFUSED = ("RESOURCE_EXHAUSTED",)
_SHORT, _LONG, _LONGER = 0.05, 10.0, 60.0
_SLOW_READER = "SLOW_READER"
MAX_UNREAD_BYTES = 100_000
"""Of the soak's server: about 20 explanations of 50 tokens."""
_SLOW_READER_ITEMS = 128
_SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
"""Of a client that does not read: gRPC takes little for it."""
_SLOW_READER_SECONDS, _POLL_SECONDS = 20.0, 0.1
_GARBAGE = b"\xff\xfe no protobuf"
EXPECTED = {
    "cancel": ("CANCELLED", "OK", *_REFUSED),
    "deadline": ("DEADLINE_EXCEEDED", *_REFUSED),
    "slow reader": (_SLOW_READER, "OK", *_REFUSED),
    "wrong width": ("INVALID_ARGUMENT",),
    "garbage": ("INVALID_ARGUMENT",),
    "vanish": ("CANCELLED", "OK", *_REFUSED),
}
"""Statuses of a fault's call; of a slow reader its reason, or OK where little had come
before it read. While an engine is being started again UNAVAILABLE is one as well."""


class Faults(threading.Thread):
    """Makes a fault every now and then until it is told to stop.

    Args:
        address: of gRPC; pool: [n, d_model] float32, activations to take rows from.
        every: mean seconds between two faults.
        seed: of which and when.

    Attributes:
        outcomes: how often a fault ended with a status, by both.
    """

    def __init__(self, address: str, pool: NDArray[np.float32], every: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._address, self._pool, self._every, self._seed = address, pool, every, seed
        self._stop_event = threading.Event()

    def run(self) -> None:
        """See Thread."""
        rng = random.Random(self._seed)
        faults: dict[str, Callable[[LoadCaller, grpc.Channel], Any]] = {
            "cancel": lambda caller, _: _cancel(caller, rng.uniform(0, 0.3)),
            "deadline": lambda caller, _: caller.stub.Verbalize(
                caller.verbalize(64), timeout=_SHORT
            ),
            "slow reader": lambda caller, _: _read_slowly(caller, self._address),
            "wrong width": lambda caller, _: caller.stub.Verbalize(_narrow(), timeout=_LONG),
            "garbage": lambda _, channel: _send_garbage(channel),
            "vanish": lambda caller, channel: _vanish(caller, channel, rng.uniform(0, 0.3)),
        }
        while not self._stop_event.wait(rng.expovariate(1 / self._every)):
            # The one that takes longest first: a short soak has it, too.
            name = rng.choice(list(faults)) if self.outcomes else "slow reader"
            channel = open_channel(self._address)
            caller = LoadCaller(
                channel, Work(items=8), self._pool, np.random.default_rng(rng.randrange(2**32))
            )
            with closing(channel):
                try:
                    faults[name](caller, channel)
                    code = "OK"
                except grpc.RpcError as error:
                    code = _status(error)
            self.outcomes[name, code] += 1

    def stop(self) -> None:
        """No more faults."""
        self._stop_event.set()
        self.join()

    def unexpected(self, engine_was_killed: bool) -> dict[str, int]:
        """Outcomes that should not be, by fault and status; one: no slow reader was ended."""
        more = ("UNAVAILABLE",) if engine_was_killed else ()
        found = {
            f"{fault}: {code}": count
            for (fault, code), count in self.outcomes.items()
            if code not in (*EXPECTED[fault], *more)
        }
        if not self.outcomes["slow reader", _SLOW_READER]:
            found[f"slow reader: never {_SLOW_READER}"] = 1
        return found


class Killer(threading.Thread):
    """Kills the engine again and again until it is told to stop.

    Args:
        front_pid: the engine's parent; every: seconds between two kills.

    Attributes:
        count: how often it did.
    """

    def __init__(self, front_pid: int, every: float) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self._front, self._every = front_pid, every
        self._stop_event = threading.Event()

    def run(self) -> None:
        """See Thread."""
        while not self._stop_event.wait(self._every):
            for pid in children(self._front):
                os.kill(pid, signal.SIGKILL)
                self.count += 1

    def stop(self) -> None:
        """No more kills."""
        self._stop_event.set()
        self.join()


def _cancel(caller: LoadCaller, after: float) -> None:
    """Give a stream up, queued or running."""
    stream = _stream(caller, 8)
    _read_until(stream, after, stream.cancel)


def _read_slowly(caller: LoadCaller, address: str) -> None:
    """Read nothing of a stream until the server has given it up, however slow it is."""
    request = pb.StreamVerbalizeRequest(request=caller.verbalize(_SLOW_READER_ITEMS))
    before = _num_slow_readers(caller)
    with grpc.insecure_channel(address, options=_SMALL_WINDOW) as channel:
        stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)
        stream = stub.StreamVerbalize(request, timeout=_LONGER)
        latest = time.monotonic() + _SLOW_READER_SECONDS
        while time.monotonic() < latest and _num_slow_readers(caller) == before:
            time.sleep(_POLL_SECONDS)
        for _ in stream:
            pass


def _num_slow_readers(caller: LoadCaller) -> int:
    """How many calls the server has ended because nobody read them."""
    stats = caller.stub.GetStats(pb.GetStatsRequest(), timeout=_LONG)
    return sum(count.count for count in stats.rejections if count.name == _SLOW_READER)


def _status(error: Any) -> str:
    """A status' name, or that it ended a slow reader."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and _SLOW_READER.encode() in value:
            return _SLOW_READER
    return str(error.code().name)


def _vanish(caller: LoadCaller, channel: grpc.Channel, after: float) -> None:
    """Close the connection under a stream."""
    _read_until(_stream(caller, 8), after, channel.close)


def _read_until(stream: Any, after: float, end: Callable[[], None]) -> None:
    """Read a stream, which ends in a while if not by itself."""
    timer = threading.Timer(after, end)
    timer.start()
    try:
        for _ in stream:
            pass
    finally:
        timer.cancel()


def _stream(caller: LoadCaller, items: int) -> Any:
    request = pb.StreamVerbalizeRequest(request=caller.verbalize(items))
    return caller.stub.StreamVerbalize(request, timeout=_LONG)


def _narrow() -> pb.VerbalizeRequest:
    """An activation of 3 values, which no model has."""
    values = np.ones((1, 3), "<f4")
    return pb.VerbalizeRequest(
        activations=pb.Tensor(
            dtype=pb.TENSOR_DTYPE_FLOAT32, shape=values.shape, data=values.tobytes()
        )
    )


def _send_garbage(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/gloss_api.v1.GlossService/Verbalize")
    call(_GARBAGE, timeout=_LONG)
