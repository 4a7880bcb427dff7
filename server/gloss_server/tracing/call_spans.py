"""The front's spans: one for each call that is traced.

Not by OpenTelemetry's own instrumentation of gRPC: it iterates over what a stream's handler
returns, where ours write by themselves, calls a call that was cancelled OK, and puts messages of
errors, which may repeat what a caller sent, into the span.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gloss_server.link.trace_context import TraceContext, wall_offset_ns
from gloss_server.tracing.span_export import SpanExport

if TYPE_CHECKING:
    from gloss_server.front.call_log import CallRecord

_MAX_HEADER_CHARS = 512
"""What W3C has everybody pass on; more of a tracestate would travel with every span."""
_MAX_CHARS = 256
_FAULTS_OF_SERVERS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Statuses with which a server's span is an error, as OpenTelemetry's conventions say."""
_W3C = TraceContextTextMapPropagator()


class CallSpans:
    """Makes the spans of calls.

    Args:
        export: where they go.
        service: full name of the RPCs' service.

    Attributes:
        fingerprint: of the checkpoints served; empty before there are any.
    """

    def __init__(self, export: SpanExport, service: str) -> None:
        self._export, self._tracer, self._service = export, export.tracer, service
        self.fingerprint = ""

    def start(
        self, method: str, metadata: Iterable[tuple[str, str | bytes]], arrived: float
    ) -> CallSpan | None:
        """A call's span; None: it is not traced.

        Args:
            method: its name.
            metadata: as the caller sent it; what a trace is continued by may be in it.
            arrived: monotonic seconds.
        """
        parent = _W3C.extract(_headers(metadata))
        offset = wall_offset_ns()
        span = self._tracer.start_span(
            f"{self._service}/{method}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=offset + round(arrived * 1e9),
            attributes={
                "rpc.system": "grpc",
                "rpc.service": self._service,
                "rpc.method": method,
            },
        )
        if not span.is_recording():
            return None
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(span))
        context = TraceContext(headers=headers, wall_offset_ns=offset)
        return CallSpan(span, context, self.fingerprint)

    def close(self) -> None:
        """Send what waits, for a second at most."""
        self._export.close()


class CallSpan:
    """One call's span while the call runs.

    Args:
        span: started.
        context: for what works for the call.
        fingerprint: of the checkpoints served.

    Attributes:
        trace_id: as logs show it.
    """

    def __init__(self, span: Span, context: TraceContext, fingerprint: str) -> None:
        self._span, self.context, self._fingerprint = span, context, fingerprint
        self.trace_id = format_trace_id(span.get_span_context().trace_id)

    def end(self, ended: float, joined: Iterable[TraceContext], record: CallRecord) -> None:
        """The call has ended.

        Args:
            ended: monotonic seconds.
            joined: of the calls that began the runs which this one only read.
            record: what is logged of it; never a text of it gets into the span.
        """
        span = self._span
        facts: dict[str, str | int | None] = {
            "reason": record.reason,
            "request_id": record.request_id[:_MAX_CHARS] or None,
            "priority": record.priority,
            "num_items": record.num_items,
            "num_tokens": record.num_tokens,
            "fingerprint": self._fingerprint or None,
        }
        for name, fact in facts.items():
            if fact is not None:
                span.set_attribute(f"gloss.{name}", fact)
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[record.code].value[0])
        for other in joined:
            span.add_link(_span_context(other))
        if record.code in _FAULTS_OF_SERVERS:
            span.set_status(Status(StatusCode.ERROR))
        span.end(self.context.wall_ns(ended))


def _headers(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """W3C's headers in a call's metadata; the first of each."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if key in _W3C.fields and isinstance(value, str) and len(value) <= _MAX_HEADER_CHARS:
            found.setdefault(key, value)
    return found


def _span_context(context: TraceContext) -> SpanContext:
    return get_current_span(_W3C.extract(dict(context.headers))).get_span_context()
