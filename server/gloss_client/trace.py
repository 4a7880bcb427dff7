"""The trace of a call, where its caller uses OpenTelemetry: the server continues it."""

from __future__ import annotations

import sys


def trace_headers() -> tuple[tuple[str, str], ...]:
    """W3C's headers of the caller's current span, as metadata; none where there is no span.

    Whoever has a span has imported OpenTelemetry; for nobody else is it looked for.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return tuple(headers.items())
