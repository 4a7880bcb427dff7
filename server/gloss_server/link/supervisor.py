"""The front's end of the engine: starts it, talks to it, and starts it again when it dies or hangs.

No shared fate: whatever happens to the engine, the front goes on answering. What was in flight is
the listener's to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gloss_server.command_error import CommandError
from gloss_server.link.channel import Closed, encode, read_message
from gloss_server.link.messages import (
    Commands,
    EngineRequest,
    Failed,
    Load,
    Loaded,
    SpansLost,
    StepReport,
    Submit,
    WarmingUp,
)
from gloss_server.link.trace_context import TraceContext

WORKER = (sys.executable, "-m", "gloss_server.worker")
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 10.0
_WATCH_SECONDS = 0.25
_STOP_SECONDS = 2.0
_BUFFER_BYTES = 1 << 22


class EngineLost(CommandError):
    """The engine cannot be kept alive."""

    exit_status = 1


class Listener(Protocol):
    """Who hears what happens to the engine, in the event loop's thread."""

    def engine_warming_up(self, warming_up: WarmingUp) -> None:
        """Its checkpoints are loaded; it is not ready yet."""

    def engine_loaded(self, loaded: Loaded) -> None:
        """Requests may come."""

    def engine_reported(self, report: StepReport) -> None:
        """A step is over."""

    def engine_failed(self, failed: Failed) -> None:
        """It ends because of an error nobody foresaw."""

    def engine_lost_spans(self, reason: str) -> None:
        """Its spans do not reach their collector."""

    def engine_died(self, reason: str, restarts_in: float | None) -> None:
        """Everything in flight is lost; None: it will not be started again."""


@dataclass(frozen=True, kw_only=True)
class SupervisorPolicy:
    """When an engine counts as dead, and how often it is started again.

    Attributes:
        heartbeat_timeout: silence, in seconds, after which it is killed.
        load_timeout: the same while it loads, and while it warms up.
        restart_limit: deaths within `restart_window` seconds that are borne; seconds in which an
            engine was loaded, since one that dies before that would never be given up where loading
            takes longer than the window.
    """

    heartbeat_timeout: float = 30.0
    load_timeout: float = 600.0
    restart_limit: int = 5
    restart_window: float = 60.0


class Supervisor:
    """Keeps one engine process alive.

    Args:
        order: what it loads.
        listener: who hears of it.
        policy: when it is dead.
        command: starts an engine; the number of its socket is added.

    Attributes:
        pid: of the engine, None between two.
    """

    def __init__(
        self,
        order: Load,
        listener: Listener,
        policy: SupervisorPolicy,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._order, self._listener, self._policy = order, listener, policy
        self._command = tuple(command)
        self.pid: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._submits: list[Submit] = []
        self._cancels: list[int] = []
        self._is_flushing = False
        self._stopping = asyncio.Event()
        self._deaths: deque[float] = deque()
        self._loaded_at: float | None = None
        self._loaded_seconds = 0.0
        self._silent_seconds = 0.0
        self._last_words: str | None = None
        self._was_loaded = False

    async def run(self) -> None:
        """Keep the engine alive until `stop`.

        Raises:
            EngineLost: checkpoints or settings it refuses, or a crash loop.
        """
        while not self._stopping.is_set():
            reason = await self._live()
            if self._stopping.is_set():
                return
            delay = self._backoff()
            self._listener.engine_died(reason, delay)
            if delay is None:
                raise EngineLost(
                    f"the engine died {len(self._deaths)} times within "
                    f"{self._policy.restart_window:g} s of service, the last time it {reason}; "
                    "giving up"
                )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()

    def submit(
        self, run_id: int, request: EngineRequest, trace: TraceContext | None = None
    ) -> None:
        """Send a request with what else this turn of the event loop brings."""
        self._submits.append(
            Submit(run_id=run_id, request=request, sent=time.monotonic(), trace=trace)
        )
        self._flush_soon()

    def cancel(self, run_id: int) -> None:
        """Take a request out at the next step."""
        self._cancels.append(run_id)
        self._flush_soon()

    def stop(self) -> None:
        """End the engine, also while it loads; `run` returns soon after."""
        self._stopping.set()

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        submits, self._submits = self._submits, []
        cancels, self._cancels = self._cancels, []
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(Commands(submits=submits, cancels=cancels)))

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """An engine's process, and our end of the socket that it has been given.

        Raises:
            OSError: there is no process, descriptor or memory left for it.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # Not the event loop's own way, which may fork: gRPC's threads do not like it.
                process = subprocess.Popen(
                    (*self._command, str(theirs.fileno())),
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        return process, ours

    async def _live(self) -> str:
        """One life of the engine; why it ended."""
        try:
            process, ours = self._start()
        except OSError as error:
            return f"could not be started: {error.strerror}"
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER_BYTES)
        self._silent_seconds, self._last_words = 0.0, None
        self.pid = process.pid
        writer.write(encode(self._order))
        watchdog = asyncio.create_task(self._watch(process))
        listening = asyncio.create_task(self._listen(reader, writer))
        stopping = asyncio.create_task(self._stopping.wait())
        tasks = (watchdog, listening, stopping)
        try:
            # Its socket may outlive it, in a child of its own, or it the kill, in the kernel.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            was_hung, was_loading = watchdog.done(), self._writer is None
            listening_ended = listening.done()
            self._writer = None
            if self._loaded_at is not None:
                self._loaded_seconds += time.monotonic() - self._loaded_at
                self._loaded_at = None
            self._submits, self._cancels = [], []
            for task in tasks:
                task.cancel()
            writer.close()
            if was_loading and not listening_ended:
                # It would not hear of it before it has loaded.
                process.kill()
            await _end(process)
            self.pid = None
        if not listening.cancelled() and listening.done():
            listening.result()
        if was_hung:
            return f"was silent for {self._silent_seconds:.1f} s and was killed"
        return self._last_words or _end_of(process)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear the engine until it is gone."""
        while True:
            try:
                message = await read_message(reader)
            except Closed:
                return
            self._silent_seconds = 0.0
            if isinstance(message, StepReport):
                self._listener.engine_reported(message)
            elif isinstance(message, Loaded):
                self._writer, self._was_loaded = writer, True
                self._loaded_at = time.monotonic()
                self._listener.engine_loaded(message)
            elif isinstance(message, WarmingUp):
                self._listener.engine_warming_up(message)
            elif isinstance(message, Failed):
                if message.traceback:
                    self._listener.engine_failed(message)
                if message.is_refusal or not self._was_loaded:
                    raise EngineLost(message.message)
                self._last_words = message.message
            elif isinstance(message, SpansLost):
                self._listener.engine_lost_spans(message.reason)

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill an engine that is silent for too long.

        Only time in which this process ran counts: who was stopped himself, as in a container that
        was paused, could hear nobody.
        """
        while True:
            policy = self._policy
            limit = policy.heartbeat_timeout if self._writer else policy.load_timeout
            if self._silent_seconds > limit:
                process.kill()
                return
            pause = min(_WATCH_SECONDS, limit / 4)
            await asyncio.sleep(pause)
            self._silent_seconds += pause

    def _backoff(self) -> float | None:
        """Seconds to wait before the engine is started again; None: no more."""
        self._deaths.append(self._loaded_seconds)
        while self._loaded_seconds - self._deaths[0] > self._policy.restart_window:
            self._deaths.popleft()
        if len(self._deaths) > self._policy.restart_limit:
            return None
        doubled: float = _FIRST_BACKOFF_SECONDS * 2 ** (len(self._deaths) - 1)
        return min(doubled, _MAX_BACKOFF_SECONDS)


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose socket is closed; kill it if it does not end by itself. One that
    waits in the kernel, for a device that hangs, is not waited for."""
    for _ in range(2):
        try:
            await asyncio.to_thread(process.wait, _STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        else:
            return


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """How a process ended that said nothing of it."""
    status = process.returncode
    if status is None:
        return "left and cannot be killed"
    return f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
