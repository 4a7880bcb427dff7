"""Whether calls have spans: OpenTelemetry is imported only where `traces` asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gloss_server.command_error import CommandError
from gloss_server.front.call_log import CallLog
from gloss_server.settings import ServeSettings
from gloss_server.terminal import visible

if TYPE_CHECKING:
    from gloss_server.tracing.call_spans import CallSpans


def open_spans(settings: ServeSettings, log: CallLog, service: str) -> CallSpans | None:
    """What makes the spans of calls; None: there are none.

    Args:
        service: full name of the RPCs' service.

    Raises:
        CommandError: OpenTelemetry is not installed.
    """
    if settings.traces is None:
        return None
    try:
        from gloss_server.tracing.call_spans import CallSpans
        from gloss_server.tracing.span_export import SpanExport
    except ImportError as error:
        raise CommandError(
            f"traces = {visible(settings.traces)}: OpenTelemetry is not installed ({error}); "
            "pip install 'gloss-nla[traces]', or take the setting away"
        ) from error
    export = SpanExport(
        settings.traces,
        settings.trace_ratio,
        {"gloss.process": "front"},
        lambda reason: log.lifecycle("spans_lost", process="front", reason=reason),
    )
    return CallSpans(export, service)
