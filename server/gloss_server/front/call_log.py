"""The server's log: JSON lines on stderr, one per call and one per event of the server's life.

Activations and prompts are never logged; explanations only where the operator asked for them.
What a caller chose, its request_id or its address, is data: escaped by JSON down to ASCII, so that
it can end no line and move no terminal, and cut to a bounded length.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from gloss_server.front.line_writer import LineWriter

Fact = str | int | float | bool | None

_MAX_CHARS = 256
# A traceback is a fact of a defect.
_MAX_FACT_CHARS = 16_384
_MAX_EXPLANATIONS = 64
_MAX_EXPLANATION_CHARS = 4096
EVENTS = {
    "starting": "info",
    "engine_loading": "info",
    "engine_warming_up": "info",
    "engine_loaded": "info",
    "ready": "info",
    "engine_died": "error",
    "engine_failed": "error",
    "engine_refused": "error",
    "defect": "error",
    "spans_lost": "warning",
    "unread_call": "info",
    "draining": "info",
    "tls_reloaded": "info",
    "tls_refused": "error",
    "tokens_reloaded": "info",
    "tokens_refused": "error",
    "secret_open_to_others": "warning",
    "few_file_descriptors": "warning",
    "stopped": "info",
}
_FAULTS_OF_OURS = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


@dataclass(frozen=True, kw_only=True)
class CallRecord:
    """What is logged of a call.

    Attributes:
        method: its name.
        request_id: the caller's or the server's; peer: the caller's address; client: its name,
            where a token or a certificate says it, else its host.
        priority: of its request; None: it has none, or did not come to a run.
        code: gRPC status, such as OK; reason: of the ErrorInfo, None where there is none.
        seconds: from arrival to end; queue_seconds: until the first activation began to run;
            first_token_seconds: until the first token. None: it never came to that.
        num_items: activations or texts of the call; num_tokens: generated for its explanations;
            num_text_tokens, num_target_tokens: read, and generated, by the target.
        request_bytes, reply_bytes: of its message, and of those that answered it.
        trace_id: of its trace; None: it is not traced.
        explanations: texts; logged only where the log was told to.
    """

    method: str
    request_id: str
    peer: str
    client: str
    priority: str | None
    code: str
    reason: str | None
    seconds: float
    queue_seconds: float | None = None
    first_token_seconds: float | None = None
    num_items: int = 0
    num_tokens: int = 0
    num_text_tokens: int = 0
    num_target_tokens: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0
    trace_id: str | None = None
    explanations: Sequence[str] = ()


class CallLog:
    """A server's log. Nothing it meets while writing reaches its caller.

    Args:
        level: least level that is written.
        log_explanations: whether explanations are.
        descriptor: where lines go; None: the process' stderr, or nowhere if that is closed.
    """

    def __init__(
        self, level: str = "info", log_explanations: bool = False, descriptor: int | None = None
    ) -> None:
        self._log_explanations = log_explanations
        self._writer = LineWriter(
            _stderr() if descriptor is None else descriptor,
            lambda count: str(_line(None, "warning", {"event": "log_lines_lost", "count": count})),
        )
        self._log = structlog.wrap_logger(
            _Lines(self._writer),
            processors=[_line],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            context_class=dict,
        )

    def call(self, record: CallRecord) -> None:
        """Log that a call ended."""
        facts: dict[str, Any] = {
            "method": _cut(record.method),
            "request_id": _cut(record.request_id),
            "peer": _cut(record.peer),
            "client": _cut(record.client),
            "priority": record.priority,
            "code": record.code,
            "reason": record.reason,
            "seconds": _rounded(record.seconds),
            "queue_seconds": _rounded(record.queue_seconds),
            "first_token_seconds": _rounded(record.first_token_seconds),
            "num_items": record.num_items,
            "num_tokens": record.num_tokens,
            "num_text_tokens": record.num_text_tokens,
            "num_target_tokens": record.num_target_tokens,
            "request_bytes": record.request_bytes,
            "reply_bytes": record.reply_bytes,
            "trace_id": record.trace_id,
        }
        if self._log_explanations:
            shown = record.explanations[:_MAX_EXPLANATIONS]
            facts["explanations"] = [_cut(text, _MAX_EXPLANATION_CHARS) for text in shown]
        write = self._log.error if record.code in _FAULTS_OF_OURS else self._log.info
        write("call", **facts)

    def lifecycle(self, event: str, **facts: Fact) -> None:
        """Log an event of the server's life, one of `EVENTS`, with what belongs to it."""
        write = getattr(self._log, EVENTS[event])
        write(event, **{name: _fact(value) for name, value in facts.items()})

    @property
    def num_lost(self) -> int:
        """Lines that could not be written since the start."""
        return self._writer.num_lost_ever

    def close(self) -> None:
        """Write what waits, for two seconds at most."""
        self._writer.close()


class _Lines:
    """The logger that structlog calls with a finished line."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = writer.write


_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")
_render = structlog.processors.JSONRenderer()


def _line(logger: object, level: str, facts: Mapping[str, Any]) -> str | bytes:
    """The line, with what every line has in front."""
    stamped = _stamp(logger, level, {})
    first = {"ts": stamped["ts"], "level": level, "event": facts["event"]}
    return _render(logger, level, {**first, **facts})


def _stderr() -> int | None:
    """stderr's descriptor; None where the process was started without one."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else None
    except (OSError, ValueError):
        return None


def _fact(value: Fact) -> Fact:
    if isinstance(value, str):
        return _cut(value, _MAX_FACT_CHARS)
    return _rounded(value) if isinstance(value, float) else value


def _cut(text: str, most: int = _MAX_CHARS) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _rounded(seconds: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return round(seconds, 6) if seconds is not None and math.isfinite(seconds) else None
