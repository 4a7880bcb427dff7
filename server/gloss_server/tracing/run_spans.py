"""The engine's spans: one for each run of a traced call, and below it what it went through.

A run is many steps, and a step is many runs': so a step is no span, and a run keeps a few numbers
until its end, when its spans are made at once. What is in flight when the process dies has none.

run
  read      the target reads the text, its wait included: Explain, Watch, Capture
  generate  the target speaks: Watch
  queued    until the step in which the first activation, or text for the AR, begins
  prefill   that step, which brings the first token
  decode    until the last explanation is written
  score     from when the AR has the first text until it is done with the last
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gloss_engine.request import StepOutput, TextRequest, VerbalizeRequest
from gloss_engine.text_request import CaptureRequest, ExplainRequest, WatchRequest
from gloss_server.link.messages import Submit
from gloss_server.link.trace_context import TraceContext
from gloss_server.tracing.span_export import SpanExport

_KINDS = {
    VerbalizeRequest: "verbalize",
    TextRequest: "texts",
    ExplainRequest: "explain",
    WatchRequest: "watch",
    CaptureRequest: "capture",
}
_MAX_COMPLAINTS = 16
_W3C = TraceContextTextMapPropagator()


@dataclass(kw_only=True)
class _TracedRun:
    """A traced run in flight.

    Attributes:
        trace: of its call; kind: of its request.
        began: when the front sent it, monotonic seconds.
        first_step: number of the first step that could have had it.
        phases: (began, ended) by name.
        counts: attributes.
    """

    trace: TraceContext
    kind: str
    began: float
    first_step: int
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + count

    def extend(self, phase: str, began: float, ended: float) -> None:
        """A phase lasted until `ended`; `began` is of the first time."""
        self.phases[phase] = self.phases.get(phase, (began, began))[0], ended

    def cut(self, at: float) -> None:
        """It is given up: what it was in the middle of ends."""
        if "decode" in self.phases:
            self.extend("decode", at, at)
        elif "prefill" in self.phases:
            self.extend("decode", self.phases["prefill"][1], at)
        elif self.kind in ("verbalize", "texts"):
            self.extend("queued", self.began, at)
        else:
            self.extend("read", self.began, at)
        if "generate" in self.phases:
            self.extend("generate", at, at)


class RunSpans:
    """Follows the runs of an engine.

    Args:
        endpoint: URL of the collector.
        fingerprint: of the checkpoints.
    """

    def __init__(self, endpoint: str, fingerprint: str) -> None:
        self._complaints: deque[str] = deque(maxlen=_MAX_COMPLAINTS)
        attributes = {"gloss.process": "engine", "gloss.fingerprint": fingerprint}
        # Whether a call is traced was the front's to decide.
        self._export = SpanExport(endpoint, 1.0, attributes, self._complaints.append)
        self._tracer = self._export.tracer
        self._runs: dict[str, _TracedRun] = {}
        self._num_steps = 0

    def submitted(self, submit: Submit) -> None:
        """A run came from the front."""
        if submit.trace is None:
            return
        request = submit.request
        run = _TracedRun(
            trace=submit.trace,
            kind=_KINDS[type(request)],
            began=submit.sent,
            first_step=self._num_steps,
        )
        if isinstance(request, VerbalizeRequest):
            run.add("num_items", len(request.activations))
        elif isinstance(request, TextRequest):
            run.add("num_items", len(request.texts))
        self._runs[str(submit.run_id)] = run

    def stepped(self, began: float, ended: float, out: StepOutput) -> None:
        """A step is over."""
        self._num_steps += 1
        if self._runs:
            self._read(began, ended, out)
            self._generate(began, ended, out)
            self._explain(began, ended, out)
            for name in out.finished:
                self.ended(name, ended, "failed" if name in out.failed else "finished")

    def ended(self, name: str, at: float, outcome: str) -> None:
        """A run is over: finished, failed, refused or cancelled."""
        run = self._runs.pop(name, None)
        if run is None:
            return
        if outcome not in ("finished", "refused"):
            run.cut(at)
        run.counts["num_steps"] = self._num_steps - run.first_step
        parent = _W3C.extract(dict(run.trace.headers))
        below = self._span(
            run.trace,
            "run",
            run.began,
            at,
            parent,
            {"kind": run.kind, "outcome": outcome, **run.counts},
        )
        for phase, (phase_began, phase_ended) in run.phases.items():
            self._span(run.trace, phase, phase_began, phase_ended, below, {})

    def take_complaints(self) -> list[str]:
        """What went wrong since the last time."""
        found = []
        while self._complaints:
            found.append(self._complaints.popleft())
        return found

    def close(self) -> None:
        """Send what waits, for a second at most."""
        self._export.close()

    def _read(self, began: float, ended: float, out: StepOutput) -> None:
        """What the target has read."""
        for opened in out.opened:
            if (run := self._runs.get(opened.request_id)) is not None:
                run.add("num_text_tokens", len(opened.token_ids))
        for captured in out.captured:
            run = self._runs.get(captured.request_id)
            if run is not None:
                run.add("num_items", 1)
                if captured.place.position < run.counts.get("num_text_tokens", 0):
                    run.extend("read", run.began, ended)
        for reading in out.readings:
            if (run := self._runs.get(reading.request_id)) is not None:
                run.add("num_items", 1)
                run.add("num_text_tokens", len(reading.token_ids))

    def _generate(self, began: float, ended: float, out: StepOutput) -> None:
        """What the target has said."""
        for token in out.target_tokens:
            if (run := self._runs.get(token.request_id)) is not None:
                run.add("num_target_tokens", 1)
                run.extend("generate", began, ended)

    def _explain(self, began: float, ended: float, out: StepOutput) -> None:
        """Who began, was written and is scored."""
        for name, _ in out.started:
            run = self._runs.get(name)
            if run is not None and "prefill" not in run.phases:
                # Where the target reads first, its activations wait from then on.
                since = run.phases.get("read", (run.began, run.began))[1]
                run.extend("queued", min(since, began), began)
                run.extend("prefill", began, ended)
        for name in out.written:
            if (run := self._runs.get(name)) is not None:
                run.extend("decode", run.phases.get("prefill", (ended, ended))[1], ended)
                run.extend("score", ended, ended)
        for explanation in out.explanations:
            run = self._runs.get(explanation.request_id)
            if run is None:
                continue
            run.add("num_explanations", 1)
            run.add("num_tokens", len(explanation.token_ids))
            if "score" in run.phases:
                run.extend("score", ended, ended)
            elif "prefill" in run.phases:
                run.extend("decode", run.phases["prefill"][1], ended)
        for text in out.texts:
            if (run := self._runs.get(text.request_id)) is not None:
                if "queued" not in run.phases:
                    run.extend("queued", run.began, began)
                run.extend("score", began, ended)

    def _span(
        self,
        trace: TraceContext,
        name: str,
        began: float,
        ended: float,
        parent: Context,
        facts: dict[str, str | int],
    ) -> Context:
        """Make a span; the context of those below it."""
        span = self._tracer.start_span(
            f"gloss {name}",
            context=parent,
            start_time=trace.wall_ns(began),
            attributes={f"gloss.{key}": value for key, value in facts.items()},
        )
        span.end(trace.wall_ns(ended))
        return set_span_in_context(span)
