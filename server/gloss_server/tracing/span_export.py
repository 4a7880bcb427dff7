"""Where a process' spans go: by OTLP to a collector, from a thread that nobody waits for.

A collector that is down, slow or refuses costs spans and nothing else. At most 2,048 spans wait;
then the oldest are lost. What the library has to say of it goes to the log, never to stderr as raw
text.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Tracer

from gloss_server import __version__

_LOGGER = "opentelemetry"
_MAX_WAITING = 2048
_MAX_BATCH = 512
_DELAY_MS = 1000.0
_EXPORT_SECONDS = 5.0
_FLUSH_SECONDS = 1.0
_CUT_SECONDS = 0.5
_QUIET_SECONDS = 30.0
"""How long a complaint is not repeated."""


class SpanExport:
    """The spans of one process.

    Args:
        endpoint: URL of the collector.
        ratio: share of traces that are kept, of those whose parent does not decide it.
        attributes: of all spans, besides the service's name and version.
        complain: hears what goes wrong, in any thread.
    """

    def __init__(
        self,
        endpoint: str,
        ratio: float,
        attributes: Mapping[str, str],
        complain: Callable[[str], None],
    ) -> None:
        self._logger = logging.getLogger(_LOGGER)
        self._logger.propagate = False
        self._logger.setLevel(logging.WARNING)
        self._logger.handlers = [_Complaints(complain)]
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        resource = Resource.create(
            {"service.name": "gloss", "service.version": __version__, **attributes}
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=_MAX_WAITING,
                schedule_delay_millis=_DELAY_MS,
                max_export_batch_size=_MAX_BATCH,
            )
        )

    @property
    def tracer(self) -> Tracer:
        """Makes spans."""
        return self._provider.get_tracer("gloss", __version__)

    def close(self) -> None:
        """Send what waits, for a second at most."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_SECONDS)
        # Nobody is there to read what comes of an end that is cut short.
        self._logger.handlers = [logging.NullHandler()]
        if flushing.is_alive():
            self._exporter.shutdown()
            flushing.join(_CUT_SECONDS)


class _Complaints(logging.Handler):
    """What the library logs, each sentence once in a while."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain
        self._told: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        now, sentence = time.monotonic(), str(record.msg)
        if now - self._told.get(sentence, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._told[sentence] = now
            self._complain(record.getMessage())
