"""Between the calls and the engine: starts runs, hands results to them, fails them when it dies.

Everything here happens in the event loop's thread. A run lives in the engine as long as a call
reads it; when the last one leaves, it is cancelled there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from gloss_engine.request import TextRequest, VerbalizeRequest
from gloss_server.front.admission import Admission
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.model import ServedModel
from gloss_server.front.rate_limit import RateLimit
from gloss_server.front.result_memory import ResultMemory
from gloss_server.front.run import Run
from gloss_server.front.telemetry import Telemetry
from gloss_server.link.messages import Loaded, StepReport, TokenColumns
from gloss_server.link.supervisor import Supervisor
from gloss_server.settings import ServeSettings

RETRY_SECONDS = 2.0
"""When to try again while there is no engine; a restart takes a few seconds."""


class Dispatcher:
    """The runs in flight.

    Args:
        settings: bounds.
        telemetry: what happens is told to.
        log: the same, for events.

    Attributes:
        supervisor: the engine; set before anything else.
        model: what is served; None while an engine loads.
        is_draining: no new calls.
    """

    def __init__(self, settings: ServeSettings, telemetry: Telemetry, log: CallLog) -> None:
        self._settings, self._telemetry, self._log = settings, telemetry, log
        self._admission = Admission(settings.max_queued_explanations, settings.max_queued_tokens)
        self._texts_admission = Admission(settings.max_queued_explanations, 1)
        self._rates = RateLimit(settings.client_tokens_per_second, settings.client_burst_seconds)
        self._memory = ResultMemory(settings.result_memory_seconds, settings.result_memory_bytes)
        self._runs: dict[int, Run] = {}
        self._names: dict[int, str] = {}
        self._numbers = count(1)
        self._was_loaded = False
        self.supervisor: Supervisor | None = None
        self.model: ServedModel | None = None
        self.is_draining = False

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

    @contextmanager
    def verbalizing(
        self,
        request: VerbalizeRequest,
        *,
        request_id: str,
        digest: bytes,
        client: str,
        arrived: float,
        deadline: float | None,
    ) -> Iterator[Run]:
        """A run of activations, read while the body runs.

        Args:
            request: with a seed.
            request_id: the caller's name for it; empty: nobody can join it.
            digest: of the caller's request.
            client: whose rate it counts against.
            arrived, deadline: monotonic seconds; None: it does not count for admission.

        Raises:
            CallError: refused.
        """
        run = self._memory.find(request_id, digest) if request_id else None
        if run is None:
            remaining = None if deadline is None else deadline - time.monotonic()
            num_items, sampling = len(request.activations), request.sampling
            num_sequences = num_items * request.num_samples
            self._admission.check(num_sequences, sampling.max_new_tokens, remaining)
            self._rates.charge(client, num_sequences * sampling.max_new_tokens)
            self._admission.admit(num_sequences, sampling.max_new_tokens)
            assert sampling.seed is not None
            run = Run(
                run_id=next(self._numbers),
                num_items=num_items,
                num_samples=request.num_samples,
                max_new_tokens=sampling.max_new_tokens,
                seed=sampling.seed,
                arrived=arrived,
                streams=request.stream,
                client=client,
            )
            if request_id:
                self._memory.add(request_id, digest, run)
                self._names[run.run_id] = request_id
            self._submit(run, request)
        with self._reading(run):
            yield run

    @contextmanager
    def running_texts(self, request: TextRequest, *, arrived: float) -> Iterator[Run]:
        """A run of texts, read while the body runs.

        Raises:
            CallError: refused.
        """
        num_items = len(request.texts)
        self._texts_admission.check(num_items, 0, None)
        self._texts_admission.admit(num_items, 0)
        run = Run(
            run_id=next(self._numbers),
            num_items=num_items,
            num_samples=0,
            max_new_tokens=0,
            seed=0,
            arrived=arrived,
            streams=False,
        )
        self._submit(run, request)
        with self._reading(run):
            yield run

    def engine_loaded(self, loaded: Loaded) -> None:
        """See Listener."""
        info = loaded.info
        self.model = ServedModel.of(self._settings.model_name, info)
        self._admission.num_slots = info.num_slots
        self._admission.forget_rates()
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
            warm_up_seconds=loaded.warm_up_seconds,
        )

    def engine_reported(self, report: StepReport) -> None:
        """See Listener."""
        self._telemetry.engine_step(report.seconds, report.num_rows, report.stats)
        self._admission.step(report.num_rows, report.seconds)
        ended = report.began + report.seconds
        for run_id, num_started in report.started.items():
            self._start(run_id, num_started, report.began, ended)
        self._take_tokens(report.tokens)
        self._take_results(report)
        for run_id in report.finished:
            self._end(run_id, ended)
        for refusal in report.refusals:
            # The front checks all that the engine does, so this is a defect; it is told as it is.
            failure = CallError("INTERNAL", "the engine refused what the front had admitted")
            self._log.lifecycle("engine_refused", reason=refusal.reason, field=refusal.field)
            self._end(refusal.run_id, ended, failure)

    def engine_died(self, reason: str, restarts_in: float | None) -> None:
        """See Listener."""
        self.model = None
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
        now = time.monotonic()
        for run_id in list(self._runs):
            self._end(run_id, now, failure)

    def _submit(self, run: Run, request: VerbalizeRequest | TextRequest) -> None:
        assert self.supervisor is not None
        self._runs[run.run_id] = run
        self.supervisor.submit(run.run_id, request)

    @contextmanager
    def _reading(self, run: Run) -> Iterator[None]:
        run.num_readers += 1
        try:
            yield
        finally:
            run.num_readers -= 1
            if run.num_readers == 0 and run.run_id in self._runs:
                assert self.supervisor is not None
                self.supervisor.cancel(run.run_id)
                failure = CallError("CANCELLED", "the call was given up")
                self._end(run.run_id, time.monotonic(), failure)

    def _start(self, run_id: int, num_started: int, began: float, ended: float) -> None:
        run = self._runs.get(run_id)
        if run is None:
            return
        run.num_started += num_started
        if run.started_at is None:
            # The step may have begun before the front had read the whole call.
            run.started_at, run.first_token_at = max(began, run.arrived), ended
        for _ in range(num_started):
            self._telemetry.item_queued(max(began - run.arrived, 0.0))

    def _take_tokens(self, columns: TokenColumns) -> None:
        touched: set[Run] = set()
        for run_id, sequence, token_id in zip(
            columns.run_ids.tolist(),
            columns.sequences.tolist(),
            columns.token_ids.tolist(),
            strict=True,
        ):
            run = self._runs.get(run_id)
            if run is not None:
                run.tokens[sequence].append(token_id)
                touched.add(run)
        for run in touched:
            run.wake()

    def _take_results(self, report: StepReport) -> None:
        touched: set[Run] = set()
        for explanation in report.explanations:
            run = self._runs.get(int(explanation.request_id))
            if run is None:
                continue
            run.explanations.append(explanation)
            num_tokens = len(explanation.token_ids)
            run.num_tokens += num_tokens
            self._admission.release(1, run.max_new_tokens)
            touched.add(run)
            if explanation.error is None:
                self._admission.explanation(num_tokens)
                self._telemetry.explanation(
                    explanation.finish_reason, num_tokens, explanation.mse, explanation.flags
                )
            else:
                self._telemetry.item_error(explanation.error.reason)
        for result in report.texts:
            run = self._runs.get(int(result.request_id))
            if run is not None:
                run.texts.append(result)
                self._texts_admission.release(1, 0)
                if result.error is not None:
                    self._telemetry.item_error(result.error.reason)
        for run in touched:
            run.wake()

    def _end(self, run_id: int, at: float, failure: CallError | None = None) -> None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        if run.num_samples:
            missing = run.num_sequences - len(run.explanations)
            self._admission.release(missing, run.max_new_tokens)
            limit = run.num_sequences * run.max_new_tokens
            self._rates.refund(run.client, limit - run.num_tokens)
        else:
            self._texts_admission.release(run.num_items - len(run.texts), 0)
        run.end(at, failure)
        name = self._names.pop(run_id, None)
        if name is not None:
            self._memory.ended(name, is_kept=failure is None)
        if failure is None and run.num_samples:
            first = run.first_token_at
            self._telemetry.run_finished(
                None if first is None else first - run.arrived, at - run.arrived
            )
