"""Between the calls and the engine: starts runs, has reports handed to them, fails what it loses.

Everything here happens in the event loop's thread. A run lives in the engine as long as a call
reads it; when the last one leaves, it is cancelled there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from gloss_engine.errors import ItemError
from gloss_engine.request import TextRequest, VerbalizeRequest
from gloss_engine.text_request import CaptureRequest, ExplainRequest, WatchRequest
from gloss_server.front.admission import Admission
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.gate import Caller, Gate
from gloss_server.front.intake import Intake
from gloss_server.front.model import ServedModel
from gloss_server.front.open_runs import OpenRuns
from gloss_server.front.permit import Permit
from gloss_server.front.rate_limit import OwnRate
from gloss_server.front.result_memory import ResultMemory
from gloss_server.front.room import Room
from gloss_server.front.run import Run
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.text_run import CaptureRun, TextRun
from gloss_server.link.messages import EngineRequest, Loaded, StepReport
from gloss_server.link.supervisor import Supervisor
from gloss_server.settings import ServeSettings

RETRY_SECONDS = 2.0
"""When to try again while there is no engine; a restart takes a few seconds."""
_Run = TypeVar("_Run", bound=Run)
_EXPLAIN_PATHS = MappingProxyType({"sampling": "options"})
_WATCH_PATHS = MappingProxyType(
    {
        "input": "prompt",
        "positions": "prompt_positions",
        "sampling": "options",
        "target_sampling": "target_options",
    }
)


class Dispatcher:
    """The way to the engine.

    Args:
        settings: bounds.
        telemetry: what happens is told to.
        log: the same, for events.
        own_rate: a client's tokens per second in place of the settings'.

    Attributes:
        model: what is served; None while an engine loads.
        is_draining: no new calls.
    """

    def __init__(
        self,
        settings: ServeSettings,
        telemetry: Telemetry,
        log: CallLog,
        own_rate: OwnRate | None = None,
    ) -> None:
        self._settings, self._telemetry, self._log = settings, telemetry, log
        self._gate = Gate(settings, own_rate)
        for resource, (room, index) in self._gate.rooms().items():
            read = partial(room.taken.__getitem__, index)
            telemetry.metrics.read_in_flight(resource, room.bounds[index], read)
        self._memory = ResultMemory(settings.result_memory_seconds, settings.result_memory_bytes)
        self._runs = OpenRuns(self._memory, telemetry)
        self._intake = Intake(self._runs, self.admission, telemetry, log)
        self._was_loaded = False
        self.model: ServedModel | None = None
        self.is_draining = False

    @property
    def admission(self) -> Admission:
        """What is in flight, and how fast it drains."""
        return self._gate.admission

    @property
    def requests(self) -> Room:
        """Of the bytes of requests in flight."""
        return self._gate.requests

    def connect(self, supervisor: Supervisor) -> None:
        """Take the engine; before anything else."""
        self._runs.supervisor = supervisor

    def served(self) -> ServedModel:
        """The model that is served.

        Raises:
            CallError: there is none at this moment.
        """
        if self.model is not None:
            return self.model
        if self._was_loaded:
            message = "the engine is being started again; try again in a few seconds"
        else:
            message = "the server is still loading or warming up; try again in a few seconds"
        raise CallError("LOADING", message, retry_after=RETRY_SECONDS)

    def serving_new_calls(self) -> ServedModel:
        """The model that a new call gets.

        Raises:
            CallError: there is none, or the server is being shut down.
        """
        if self.is_draining:
            raise CallError(
                "DRAINING",
                "the server is being shut down and takes no new calls; try another",
                retry_after=0.0,
            )
        return self.served()

    def verbalizing(self, request: VerbalizeRequest, caller: Caller) -> AbstractContextManager[Run]:
        """A run of activations, read while the body runs; the request states a seed.

        Raises:
            CallError: refused, as by all methods that begin a run.
        """

        def begin() -> Run:
            permit = self._gate.verbalize(request, caller)
            assert request.sampling.seed is not None
            run = Run(
                run_id=self._runs.next_id(),
                num_items=len(request.activations),
                num_samples=request.num_samples,
                max_new_tokens=request.sampling.max_new_tokens,
                seed=request.sampling.seed,
                arrived=caller.arrived,
                streams=request.stream,
                method="StreamVerbalize" if request.stream else "Verbalize",
                priority=request.priority,
                trace=caller.trace,
            )
            self._start(run, request, permit, caller)
            return run

        return self._joining(caller, Run, begin)

    @contextmanager
    def running_texts(self, request: TextRequest, caller: Caller) -> Iterator[Run]:
        """A run of texts, read while the body runs."""
        permit = self._gate.texts(request, caller)
        run = Run(
            run_id=self._runs.next_id(),
            num_items=len(request.texts),
            num_samples=0,
            max_new_tokens=0,
            seed=0,
            arrived=caller.arrived,
            streams=False,
            trace=caller.trace,
        )
        self._runs.start(run, request, permit)
        with self._runs.reading(run):
            yield run

    def explaining(
        self, request: ExplainRequest, num_text_tokens: int, caller: Caller
    ) -> AbstractContextManager[TextRun]:
        """A run of a text's activations, read while the body runs.

        Args:
            request: with a seed.
            num_text_tokens: most tokens its text can have.
        """

        def begin() -> TextRun:
            permit = self._gate.explain(request, num_text_tokens, caller)
            return self._start_text(request, permit, caller, _EXPLAIN_PATHS)

        return self._joining(caller, TextRun, begin)

    def watching(
        self, request: WatchRequest, num_text_tokens: int, caller: Caller
    ) -> AbstractContextManager[TextRun]:
        """A run of a target that generates, read while the body runs.

        Args:
            request: with seeds and max_pending.
            num_text_tokens: most tokens its prompt can have.
        """

        def begin() -> TextRun:
            permit = self._gate.watch(request, num_text_tokens, caller)
            return self._start_text(request, permit, caller, _WATCH_PATHS)

        return self._joining(caller, TextRun, begin)

    @contextmanager
    def capturing(
        self, num_text_tokens: int, caller: Caller, failures: Iterable[ItemError] = ()
    ) -> Iterator[Permit]:
        """Room for a call that reads texts piece by piece.

        Args:
            num_text_tokens: most tokens of the texts it has in flight at a time.
            failures: why other texts of it cannot be read; they never reach the engine.
        """
        permit = self._gate.capture(num_text_tokens, caller)
        for failure in failures:
            self._telemetry.item_error(failure.reason)
        try:
            yield permit
        finally:
            permit.close(0)

    @contextmanager
    def capturing_piece(
        self, request: CaptureRequest, permit: Permit, caller: Caller
    ) -> Iterator[CaptureRun]:
        """A run of a few texts, within the room of their call."""
        run = CaptureRun(
            run_id=self._runs.next_id(),
            num_texts=len(request.inputs),
            arrived=caller.arrived,
            trace=caller.trace,
        )
        self._runs.start(run, request, None)
        try:
            with self._runs.reading(run):
                yield run
        finally:
            permit.text_read(run.num_text_tokens)

    def engine_loaded(self, loaded: Loaded) -> None:
        """See Listener."""
        info = loaded.info
        self.model = ServedModel.of(self._settings.model_name, info)
        self.admission.pace.num_slots = info.num_slots
        self.admission.pace.forget()
        self._telemetry.model_loaded(self.model)
        self._telemetry.engine_started(loaded.load_seconds, loaded.warm_up_seconds)
        if self._was_loaded:
            self._telemetry.engine_restarted()
        self._was_loaded = True
        if not self.is_draining:
            self._telemetry.engine_state("serving")
        self._log.lifecycle(
            "engine_loaded",
            model=self.model.model,
            fingerprint=info.fingerprint,
            device=info.device,
            dtype=info.dtype,
            num_slots=info.num_slots,
            num_pages=info.num_pages,
            warm_up_seconds=loaded.warm_up_seconds,
        )

    def engine_reported(self, report: StepReport) -> None:
        """See Listener."""
        self._intake.take(report)

    def engine_died(self, reason: str, restarts_in: float | None) -> None:
        """See Listener."""
        self.model = None
        self._telemetry.engine_died()
        if not self.is_draining:
            self._telemetry.engine_state("restarting" if self._was_loaded else "loading")
        self._log.lifecycle(
            "engine_died",
            reason=reason,
            restarts_in=restarts_in,
            num_lost=len(self._runs),
        )
        failure = CallError(
            "ENGINE_RESTARTED",
            "the engine was lost with everything in flight and is being started again; try again",
            retry_after=RETRY_SECONDS,
        )
        self.end_all(failure)

    def end_all(self, failure: CallError) -> None:
        """End every run in flight."""
        self._runs.end_all(failure)

    @contextmanager
    def _joining(
        self, caller: Caller, kind: type[_Run], begin: Callable[[], _Run]
    ) -> Iterator[_Run]:
        """The run that the caller's request_id names already, or a new one."""
        name = caller.run_name
        run = None if name is None else self._memory.find(name, caller.digest)
        if run is None:
            run = begin()
        # The digest is of the method as well.
        assert isinstance(run, kind)
        with self._runs.reading(run):
            yield run

    def _start(self, run: Run, request: EngineRequest, permit: Permit, caller: Caller) -> None:
        self._runs.start(run, request, permit, caller.run_name, caller.digest)

    def _start_text(
        self,
        request: ExplainRequest | WatchRequest,
        permit: Permit,
        caller: Caller,
        paths: Mapping[str, str],
    ) -> TextRun:
        sampling = request.sampling
        assert sampling.seed is not None
        run = TextRun(
            run_id=self._runs.next_id(),
            num_samples=request.num_samples,
            max_new_tokens=sampling.max_new_tokens,
            seed=sampling.seed,
            arrived=caller.arrived,
            paths=paths,
            method="Explain" if isinstance(request, ExplainRequest) else "Watch",
            priority=request.priority if isinstance(request, ExplainRequest) else "interactive",
            trace=caller.trace,
        )
        self._start(run, request, permit, caller)
        return run
