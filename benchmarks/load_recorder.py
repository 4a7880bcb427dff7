"""Tells Locust of calls, and keeps their records: of one process and one run of `locustfile.py`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import gevent
import numpy as np
from load_records import MOST_LAG_SECONDS, CallRecord
from locust.env import Environment

_FLUSH_SECONDS = 0.5
_log = logging.getLogger("gloss.load")


class CallFailed(Exception):
    """A call that did not end well, for Locust's list of failures."""


class Recorder:
    """Tells Locust of calls, and keeps their records, of one process and one run.

    The load begins when the last user is connected: what they take for it is none of the server's.

    Args:
        environment: Locust's.
        path: file of the records; None: none is kept.
        run: what the first line says of the run.
        num_users: how many connect.
    """

    def __init__(
        self, environment: Environment, path: Path | None, run: dict[str, Any], num_users: int
    ) -> None:
        self._environment = environment
        self._run, self._num_missing = run, num_users
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._lags: list[float] = []
        self._lines: list[str] = []
        self._file: TextIO | None = None if path is None else path.open("w")
        self._flusher: gevent.Greenlet | None = None

    def connected(self) -> None:
        """A user is; after the last one write the first line, and others as they come."""
        self._num_missing -= 1
        if self._num_missing:
            return
        self._began, self._cpu = time.monotonic(), time.process_time()
        if self._file is not None:
            self._lines.insert(0, _json_line("run", {**self._run, "began": self._began}))
            self._flusher = gevent.spawn(self._flush_often)

    def note(self, record: CallRecord) -> None:
        """A call has ended."""
        self._lags.append(record.lag)
        if self._file is not None:
            self._lines.append(record.line())
        for kind, name, seconds, failure in _events_of(record):
            self._environment.events.request.fire(
                request_type=kind,
                name=name,
                response_time=1000 * seconds,
                response_length=record.tokens if kind == "end_to_end" else 0,
                exception=failure,
                context={},
            )

    def stop(self) -> None:
        """The run is over: write the last line, and say whether the generator kept up."""
        lag = float(np.quantile(self._lags, 0.99)) if self._lags else 0.0
        generator = {
            "calls": len(self._lags),
            "seconds": time.monotonic() - self._began,
            "cpu_seconds": time.process_time() - self._cpu,
            "lag_p99": lag,
            "lag_max": max(self._lags, default=0.0),
        }
        if self._flusher is not None:
            self._flusher.kill()
        if self._file is not None:
            self._lines.append(_json_line("generator", generator))
            self._flush()
            self._file.close()
        if lag > MOST_LAG_SECONDS:
            _log.error(
                "the generator fell behind: 1%% of the calls were sent %.0f ms late or later, so "
                "these latencies are not the server's. Use --processes, or a machine of its own.",
                1000 * lag,
            )

    def _flush_often(self) -> None:
        # A full disk or a slow one must not hold up calls: another thread writes.
        while True:
            gevent.get_hub().threadpool.apply(self._flush)
            gevent.sleep(_FLUSH_SECONDS)

    def _flush(self) -> None:
        assert self._file is not None
        lines, self._lines = self._lines, []
        self._file.writelines(lines)
        self._file.flush()


def _events_of(record: CallRecord) -> Iterable[tuple[str, str, float, CallFailed | None]]:
    """Kind, name, seconds and failure of what Locust hears of a call."""
    if record.code != "OK":
        kind = "refused" if record.is_refusal else "failed"
        why = record.reason or record.code
        yield kind, f"{record.rpc} {why}", record.end_to_end, CallFailed(why)
        return
    failure = CallFailed("explanations with errors") if record.failed else None
    yield "end_to_end", record.rpc, record.end_to_end, failure
    if record.time_to_first is not None:
        yield "time_to_first_token", record.rpc, record.time_to_first, None
    for gap in record.gaps:
        yield "inter_token", record.rpc, gap, None
    if record.gaps and record.tokens > 1:
        # Explanations of a call run side by side: a step is a token of each.
        tokens = record.tokens / max(record.explanations, 1)
        yield "time_per_token", record.rpc, sum(record.gaps) / max(tokens - 1, 1), None


def _json_line(name: str, values: dict[str, Any]) -> str:
    return json.dumps({name: values}) + "\n"
