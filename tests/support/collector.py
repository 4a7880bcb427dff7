"""An OpenTelemetry collector that keeps what it gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, kw_only=True)
class Received:
    """A span as it came.

    Attributes:
        resource, attributes: by name.
        links: ids of the spans that it names.
        content: its bytes.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    began: int
    ended: int
    is_error: bool
    resource: dict[str, Any]
    attributes: dict[str, Any]
    links: list[str] = field(default_factory=list)
    content: bytes = b""

    def holds(self, other: Received) -> bool:
        """Whether another span's time lies within this one's."""
        return self.began <= other.began <= other.ended <= self.ended


class Collector(service_grpc.TraceServiceServicer):
    """A collector on a port the system chooses.

    Attributes:
        url: for the setting `traces`.
        spans: all that came.
        refuses: status it answers instead; None: it takes what comes.
    """

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.refuses: grpc.StatusCode | None = None
        self.num_refused = 0
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        service_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        """See TraceService."""
        if self.refuses is not None:
            self.num_refused += 1
            context.abort(self.refuses, "not now")
        found = [
            _received(span, _facts(of_resource.resource.attributes))
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self.spans += found
        return service_pb2.ExportTraceServiceResponse()

    def of_call(self, name: str, seconds: float = 20) -> Received:
        """The call's span that carries this request_id, once it has come."""
        return self.one(lambda span: span.attributes.get("gloss.request_id") == name, seconds)

    def one(self, fits: Callable[[Received], bool], seconds: float = 20) -> Received:
        """The span that fits, once it has come."""
        (span,) = self.wait(lambda: [span for span in self.spans if fits(span)], seconds)
        return span

    def below(self, parent: Received, count: int = 1) -> list[Received]:
        """A span's children, once there are so many, in the order in which they began."""

        def children() -> list[Received]:
            return [span for span in self.spans if span.parent_id == parent.span_id]

        if count:
            self.wait(lambda: children() if len(children()) >= count else [])
        return sorted(children(), key=lambda span: (span.began, span.ended))

    def wait(self, look: Callable[[], list[Received]], seconds: float = 20) -> list[Received]:
        """What a look finds, once it finds something."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            came = [(span.name, span.attributes) for span in self.spans]
            assert time.monotonic() < deadline, f"never came; what did: {came}"
            time.sleep(0.02)
        return found


def _received(span: trace_pb2.Span, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        resource=resource,
        attributes=_facts(span.attributes),
        links=[link.span_id.hex() for link in span.links],
        content=span.SerializeToString(),
    )


def _facts(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
