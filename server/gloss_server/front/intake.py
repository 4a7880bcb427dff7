"""Hands what an engine step brought to the runs it is for, and tells metrics of it."""

from __future__ import annotations

from gloss_engine.errors import ItemError, RequestError
from gloss_engine.request import Explanation, TextResult
from gloss_engine.text_request import CapturedToken, OpenedText
from gloss_server.front.admission import Admission
from gloss_server.front.call_error import CODES, CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.open_runs import OpenRun, OpenRuns
from gloss_server.front.run import Run
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.text_run import CaptureRun, TextRun
from gloss_server.link.messages import Refusal, StepReport, TokenColumns
from gloss_server.link.reading_parts import ReadingPart

_RETRY_SECONDS = 1.0
"""After which a text may be read for which the device's memory did not suffice."""


class Intake:
    """Takes reports in.

    Args:
        runs: those in flight; what is for others is dropped: they were given up.
        admission: hears how fast explanations drain.
        telemetry: what happens is told to.
        log: the same, for what should not happen.
    """

    def __init__(
        self, runs: OpenRuns, admission: Admission, telemetry: Telemetry, log: CallLog
    ) -> None:
        self._runs, self._admission = runs, admission
        self._telemetry, self._log = telemetry, log
        self._touched: set[Run] = set()

    def take(self, report: StepReport) -> None:
        """Take one step's report in, in the order in which things happen within a step."""
        ended = report.began + report.seconds
        self._telemetry.engine_step(report.seconds, report.num_rows, report.stats)
        self._admission.pace.step(report.num_rows, report.seconds, ended)
        for opened in report.opened:
            self._open(opened)
        for captured in report.captured:
            self._capture(captured, report.began)
        for run_id, num_started in report.started.items():
            self._start(run_id, num_started, report.began, ended)
        self._take_tokens(report.tokens)
        self._take_target(report, ended)
        for explanation in report.explanations:
            self._explain(explanation)
        for result in report.texts:
            self._take_text(result)
        for part in report.readings:
            self._read(part, report.began)
        for run in self._touched:
            run.wake()
        self._touched.clear()
        for run_id in report.finished:
            error = report.failed.get(run_id)
            failure = None if error is None else _call_error(error)
            self._runs.end(run_id, ended, failure)
        for refusal in report.refusals:
            self._refuse(refusal, ended)

    def _find(self, run_id: int | str) -> OpenRun | None:
        """A run that gets something, and is told of it afterwards."""
        found = self._runs.get(run_id)
        if found is not None:
            self._touched.add(found.run)
        return found

    def _open(self, opened: OpenedText) -> None:
        found = self._find(opened.request_id)
        if found is None:
            return
        run, permit = found.run, found.permit
        assert isinstance(run, TextRun) and permit is not None
        try:
            permit.opened(len(opened.positions))
        except CallError as failure:
            self._runs.give_up(run.run_id, failure)
        else:
            run.open(opened)

    def _capture(self, captured: CapturedToken, began: float) -> None:
        found = self._find(captured.request_id)
        if found is None:
            return
        run, permit = found.run, found.permit
        assert isinstance(run, TextRun) and permit is not None
        assert captured.index == run.num_items, "items come in their order"
        run.capture(captured.place, began)
        permit.captured()
        if run.is_read:
            permit.text_read(run.num_text_tokens)

    def _start(self, run_id: int, num_started: int, began: float, ended: float) -> None:
        found = self._runs.get(run_id)
        if found is None:
            return
        run = found.run
        if found.permit is not None:
            found.permit.started(num_started * run.num_samples)
        if run.started_at is None:
            # The step may have begun before the front had read the whole call.
            run.started_at = max(began, run.arrived)
        if run.first_token_at is None:
            run.first_token_at = ended
            if run.explains:
                self._telemetry.first_token(ended - run.arrived, run.priority)
        for index in range(run.num_started, run.num_started + num_started):
            waited = max(began - run.waits_since(index), 0.0)
            num_tokens = run.num_samples * run.max_new_tokens
            self._telemetry.item_queued(waited, run.priority, num_tokens)
        run.num_started += num_started

    def _take_tokens(self, columns: TokenColumns) -> None:
        for run_id, sequence, token_id in zip(
            columns.run_ids.tolist(),
            columns.sequences.tolist(),
            columns.token_ids.tolist(),
            strict=True,
        ):
            found = self._find(run_id)
            if found is not None:
                found.run.tokens[sequence].append(token_id)

    def _take_target(self, report: StepReport, ended: float) -> None:
        """What targets have said, left out and ended with."""
        columns = report.target_tokens
        for run_id, position, token_id in zip(
            columns.run_ids.tolist(),
            columns.positions.tolist(),
            columns.token_ids.tolist(),
            strict=True,
        ):
            found = self._find(run_id)
            if found is None:
                continue
            run, permit = found.run, found.permit
            assert isinstance(run, TextRun) and permit is not None
            run.generate(position, token_id)
            if run.first_token_at is None:
                run.first_token_at = ended
            if run.is_read:
                permit.text_read(run.num_text_tokens)
        for skipped in report.skipped:
            found = self._find(skipped.request_id)
            if found is not None:
                assert isinstance(found.run, TextRun)
                found.run.skip(skipped)
        for end in report.target_ends:
            found = self._find(end.request_id)
            if found is not None:
                assert isinstance(found.run, TextRun)
                found.run.target_finish_reason = end.finish_reason

    def _explain(self, explanation: Explanation) -> None:
        found = self._find(explanation.request_id)
        if found is None:
            return
        run, permit = found.run, found.permit
        run.explanations.append(explanation)
        num_tokens = len(explanation.token_ids)
        run.num_tokens += num_tokens
        assert permit is not None
        permit.result_ended()
        if explanation.error is not None:
            self._telemetry.item_error(explanation.error.reason)
            return
        self._admission.pace.explanation(num_tokens)
        self._telemetry.explanation(
            explanation.finish_reason, num_tokens, explanation.mse, explanation.flags
        )
        if explanation.lag_seconds is not None:
            self._telemetry.watch_lag(explanation.lag_seconds)

    def _take_text(self, result: TextResult) -> None:
        found = self._find(result.request_id)
        if found is None:
            return
        found.run.texts.append(result)
        assert found.permit is not None
        found.permit.result_ended()
        if result.error is not None:
            self._telemetry.item_error(result.error.reason)

    def _read(self, part: ReadingPart, began: float) -> None:
        reading = part.reading
        found = self._find(reading.request_id)
        if found is None:
            return
        run = found.run
        assert isinstance(run, CaptureRun)
        run.read(part)
        if run.started_at is None:
            run.started_at = max(began, run.arrived)
        if reading.error is not None:
            self._telemetry.item_error(reading.error.reason)

    def _refuse(self, refusal: Refusal, ended: float) -> None:
        """A request the engine would not take: its caller's mistake, or ours."""
        found = self._runs.get(refusal.run_id)
        if found is None:
            return
        paths = found.run.paths
        if paths is not None and refusal.reason in CODES:
            error = RequestError(refusal.reason, refusal.field, refusal.message)
            failure = CallError.of_request(error, paths.get(refusal.field, refusal.field))
        else:
            # The front checks all that the engine does, so this is a defect; it is told as it is.
            failure = CallError("INTERNAL", "the engine refused what the front had admitted")
            self._log.lifecycle("engine_refused", reason=refusal.reason, field=refusal.field)
        self._runs.end(refusal.run_id, ended, failure)


def _call_error(error: ItemError) -> CallError:
    """What a call ends with whose only text failed."""
    return CallError(error.reason, error.message, retry_after=_RETRY_SECONDS)
