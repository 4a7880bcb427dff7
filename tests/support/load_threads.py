"""Threads that call a server while something happens to it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc

from support.service_calls import fault


class Load:
    """Threads that call until they are told to stop, and what their calls ended with."""

    def __init__(self, call: Callable[[int], object], num_threads: int) -> None:
        self.ended: Counter[tuple[str, str | None]] = Counter()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._call = call
        self._pool = ThreadPoolExecutor(num_threads)
        self._threads = [self._pool.submit(self._run, number) for number in range(num_threads)]

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                self._call(number)
                outcome: tuple[str, str | None] = ("OK", None)
            except grpc.RpcError as error:
                outcome = fault(error)[:2] if _has_details(error) else (_code(error), None)
                time.sleep(0.02)
            with self._lock:
                self.ended[outcome] += 1

    def stop(self) -> Counter[tuple[str, str | None]]:
        """Stop, wait, and say how the calls ended."""
        self._stop.set()
        for thread in self._threads:
            thread.result(60)
        self._pool.shutdown()
        return self.ended


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name)  # type: ignore[attr-defined]


def _has_details(error: grpc.RpcError) -> bool:
    metadata = error.trailing_metadata() or ()  # type: ignore[attr-defined]
    return any(key == "grpc-status-details-bin" for key, _ in metadata)
