"""The engine process: loads, warms up, takes commands, steps the engine, reports every step.

    python -m gloss_server.worker FD

FD is its end of a socket pair. It has one thread: what arrives during a step waits for its end, and
a step that never ends is noticed by the front, which then hears nothing. It ends when the front
does, and when the front closes its end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gloss_engine.errors import GlossError, MemoryTooSmall, RequestError
from gloss_engine.info import ModelInfo
from gloss_engine.request import StepOutput, TextRequest, TokenDelta, VerbalizeRequest
from gloss_engine.stats import EngineStats
from gloss_engine.text_request import CaptureRequest, ExplainRequest, TargetToken, WatchRequest
from gloss_server.link.channel import Closed, EngineChannel
from gloss_server.link.messages import (
    Alive,
    Commands,
    Failed,
    Load,
    Loaded,
    Refusal,
    SpansLost,
    StepReport,
    Submit,
    TargetTokenColumns,
    TokenColumns,
    WarmingUp,
)
from gloss_server.link.reading_parts import ReadingParts

if TYPE_CHECKING:
    # Not there without OpenTelemetry.
    from gloss_server.tracing.run_spans import RunSpans

HEARTBEAT_SECONDS = 1.0
MOST_READING_BYTES = 4 << 20
"""Of rows that go to the front with a step."""
_PR_SET_PDEATHSIG = 1
_ALIVE = Alive()


class WorkerEngine(Protocol):
    """What the worker needs of an engine; `gloss_engine.Engine` is one."""

    info: ModelInfo | None

    @property
    def has_work(self) -> bool:
        """Whether another step would bring anything."""

    def submit(self, request: VerbalizeRequest, request_id: str | None = None) -> str:
        """Queue activations."""

    def submit_texts(self, request: TextRequest, request_id: str | None = None) -> str:
        """Queue texts for the AR."""

    def submit_explain(self, request: ExplainRequest, request_id: str | None = None) -> str:
        """Queue a text whose activations are to be explained."""

    def submit_watch(self, request: WatchRequest, request_id: str | None = None) -> str:
        """Queue a prompt for the target to go on from."""

    def submit_capture(self, request: CaptureRequest, request_id: str | None = None) -> str:
        """Queue texts whose activations are to be read."""

    def cancel(self, request_id: str) -> None:
        """Take a request out at the next step."""

    def step(self) -> StepOutput:
        """Run everything in flight for one token."""

    def stats(self) -> EngineStats:
        """Counters and gauges."""

    def warm_up(self) -> float:
        """Do what is done once, before the first request; the seconds it took."""


_SUBMITS: dict[type, Callable[[WorkerEngine, Any, str], str]] = {
    VerbalizeRequest: lambda engine, request, name: engine.submit(request, name),
    TextRequest: lambda engine, request, name: engine.submit_texts(request, name),
    ExplainRequest: lambda engine, request, name: engine.submit_explain(request, name),
    WatchRequest: lambda engine, request, name: engine.submit_watch(request, name),
    CaptureRequest: lambda engine, request, name: engine.submit_capture(request, name),
}
"""What takes each kind of request."""


class Worker:
    """Runs an engine for a front.

    Args:
        engine: loaded, nothing in flight.
        channel: to the front.
        spans: hear of runs; None: nothing is traced.
    """

    def __init__(
        self, engine: WorkerEngine, channel: EngineChannel, spans: RunSpans | None = None
    ) -> None:
        self._engine, self._channel, self._spans = engine, channel, spans
        self._num_samples: dict[str, int] = {}
        self._readings = ReadingParts(MOST_READING_BYTES)

    @property
    def _has_work(self) -> bool:
        return self._engine.has_work or bool(self._readings)

    def run(self) -> None:
        """Serve until the front is gone.

        Raises:
            Closed: it is.
        """
        while True:
            waits = 0.0 if self._has_work else HEARTBEAT_SECONDS
            refusals: list[Refusal] = []
            for commands in self._channel.receive(waits):
                assert isinstance(commands, Commands)
                self._obey(commands, refusals)
            if self._has_work or refusals:
                self._step(refusals)
            else:
                self._channel.send(_ALIVE)
            if self._spans is not None:
                for complaint in self._spans.take_complaints():
                    self._channel.send(SpansLost(complaint))

    def _obey(self, commands: Commands, refusals: list[Refusal]) -> None:
        for submit in commands.submits:
            try:
                self._submit(submit)
            except RequestError as error:
                if self._spans is not None:
                    self._spans.ended(str(submit.run_id), time.monotonic(), "refused")
                refusals.append(
                    Refusal(
                        run_id=submit.run_id,
                        reason=error.reason,
                        field=error.field,
                        message=str(error),
                    )
                )
        for run_id in commands.cancels:
            self._engine.cancel(str(run_id))
            self._readings.drop(str(run_id))
            if self._spans is not None:
                self._spans.ended(str(run_id), time.monotonic(), "cancelled")

    def _submit(self, submit: Submit) -> None:
        request, name = submit.request, str(submit.run_id)
        if self._spans is not None:
            self._spans.submitted(submit)
        _SUBMITS[type(request)](self._engine, request, name)
        if not isinstance(request, TextRequest | CaptureRequest):
            self._num_samples[name] = request.num_samples

    def _step(self, refusals: list[Refusal]) -> None:
        began = time.monotonic()
        out = self._engine.step() if self._engine.has_work else StepOutput()
        self._readings.add(out.readings)
        started: dict[int, int] = {}
        for name, _ in out.started:
            started[int(name)] = started.get(int(name), 0) + 1
        report = StepReport(
            began=began,
            seconds=time.monotonic() - began,
            num_rows=out.num_rows,
            started=started,
            tokens=self._columns(out.tokens),
            explanations=out.explanations,
            texts=out.texts,
            opened=out.opened,
            captured=out.captured,
            target_tokens=_target_columns(out.target_tokens),
            target_ends=out.target_ends,
            skipped=out.skipped,
            readings=self._readings.take(),
            finished=[int(name) for name in self._readings.told(out.finished)],
            failed={int(name): error for name, error in out.failed.items()},
            refusals=refusals,
            stats=self._engine.stats(),
        )
        for name in out.finished:
            self._num_samples.pop(name, None)
        if self._spans is not None:
            self._spans.stepped(began, began + report.seconds, out)
        self._channel.send(report)

    def _columns(self, tokens: list[TokenDelta]) -> TokenColumns:
        """New tokens of all runs."""
        num_samples = self._num_samples
        return TokenColumns(
            run_ids=np.array([int(delta.request_id) for delta in tokens], np.int64),
            sequences=np.array(
                [delta.index * num_samples[delta.request_id] + delta.sample for delta in tokens],
                np.int32,
            ),
            token_ids=np.array([delta.token_id for delta in tokens], np.int32),
        )


def _target_columns(tokens: list[TargetToken]) -> TargetTokenColumns:
    """What the targets of all runs have generated."""
    return TargetTokenColumns(
        run_ids=np.array([int(token.request_id) for token in tokens], np.int64),
        positions=np.array([token.position for token in tokens], np.int32),
        token_ids=np.array([token.token_id for token in tokens], np.int32),
    )


def load(order: Load) -> WorkerEngine:
    """Load the engine of an order."""
    from gloss_engine import EngineConfig, load_engine

    return load_engine(order.av, order.ar, EngineConfig(**order.config), target=order.target)


def run_worker(load_engine: Callable[[Load], WorkerEngine] = load) -> int:
    """Body of the process: load what the front names, then serve it; the exit status."""
    _die_with_parent()
    channel = EngineChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        try:
            order = channel.receive(None)[0]
            assert isinstance(order, Load)
            engine = _start(order, load_engine, channel)
            with _spans(order, engine) as spans:
                Worker(engine, channel, spans).run()
        except Closed:
            raise
        except GlossError as error:
            # Memory may suffice once more: what a dead engine held is not free at once.
            is_refusal = not isinstance(error, MemoryTooSmall)
            channel.send(Failed(message=str(error), is_refusal=is_refusal))
        except Exception as error:
            # The front logs it and starts another engine; stderr holds the front's lines alone.
            first_line = (str(error) or type(error).__name__).splitlines()[0]
            text = "".join(format_exception(error))
            message = f"failed with {type(error).__name__}: {first_line}"
            channel.send(Failed(message=message, is_refusal=False, traceback=text))
    except Closed:
        return 0
    return 1


def _start(
    order: Load, load_engine: Callable[[Load], WorkerEngine], channel: EngineChannel
) -> WorkerEngine:
    """Load an engine and warm it up; the front hears of both."""
    began = time.monotonic()
    engine = load_engine(order)
    assert engine.info is not None
    load_seconds = time.monotonic() - began
    channel.send(WarmingUp(load_seconds=load_seconds))
    channel.send(
        Loaded(info=engine.info, load_seconds=load_seconds, warm_up_seconds=engine.warm_up())
    )
    return engine


@contextmanager
def _spans(order: Load, engine: WorkerEngine) -> Iterator[RunSpans | None]:
    """The spans of an engine's runs, where they are wanted."""
    if order.traces is None:
        yield None
        return
    from gloss_server.tracing.run_spans import RunSpans

    assert engine.info is not None
    spans = RunSpans(order.traces, engine.info.fingerprint)
    try:
        yield spans
    finally:
        spans.close()


def _die_with_parent() -> None:
    """Let the kernel end this process with the front, also in the middle of a long load.

    Signals for the whole group (Ctrl-C in a terminal) are the front's to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(run_worker())
