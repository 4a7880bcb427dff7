"""Metrics that are read when they are scraped, and those of refusals, deaths and device memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from gloss_engine.stats import EngineStats
from gloss_server.front import labels
from gloss_server.front.call_log import CallLog
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.metrics import Metrics
from gloss_server.front.room import Room
from gloss_server.front.telemetry import Telemetry
from gloss_server.settings import ServeSettings

ENGINE = "gloss_engine_process_"


def value(metrics: Metrics, name: str, **wanted: str) -> Any:
    return metrics.registry.get_sample_value(name, wanted)


def test_what_is_in_flight_is_read_of_its_room() -> None:
    metrics, room = Metrics(), Room({"watches": 4})
    metrics.read_in_flight("watches", 4, lambda: room.taken[0])
    lease = room.take(3)
    assert value(metrics, "gloss_in_flight", resource="watches") == 3
    assert value(metrics, "gloss_in_flight_limit", resource="watches") == 4
    lease.close()
    assert value(metrics, "gloss_in_flight", resource="watches") == 0


def test_every_resource_has_its_limit_of_the_settings(tmp_path: Path) -> None:
    settings = ServeSettings(
        max_queued_explanations=70,
        max_queued_tokens=7000,
        max_queued_text_tokens=9000,
        max_queued_watches=5,
    )
    with (tmp_path / "log").open("wb") as file:
        log = CallLog("info", False, file.fileno())
        telemetry = Telemetry()
        Dispatcher(settings, telemetry, log)
        log.close()
    limits = {
        resource: value(telemetry.metrics, "gloss_in_flight_limit", resource=resource)
        for resource in labels.RESOURCES
    }
    expected = {"explanations": 70, "tokens": 7000, "texts": 70, "text_tokens": 9000, "watches": 5}
    assert limits.items() >= expected.items() and all(limits.values())


def test_the_engines_process_stands_beside_the_fronts() -> None:
    metrics = Metrics()
    assert metrics.engine_resident_bytes() == 0
    code = "import sys; held = b'x' * (100 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as engine:
        assert engine.stdin is not None and engine.stdout is not None
        engine.stdout.readline()
        pid: list[int | None] = [os.getpid()]
        metrics.read_engine_process(lambda: pid[0])
        own = value(metrics, f"{ENGINE}start_time_seconds")
        assert own == value(metrics, "process_start_time_seconds")
        pid[0] = engine.pid
        assert value(metrics, f"{ENGINE}resident_memory_bytes") > 100 << 20
        assert metrics.engine_resident_bytes() > 100 << 20
        # Between two engines there is no series, rather than one that says 0.
        pid[0] = None
        assert value(metrics, f"{ENGINE}resident_memory_bytes") is None
        assert metrics.engine_resident_bytes() == 0
        engine.stdin.close()


def test_lines_that_the_log_lost_are_counted() -> None:
    metrics = Metrics()
    with open(os.devnull, "rb") as file:
        # Opened to be read: every write fails.
        log = CallLog("info", False, file.fileno())
        metrics.read_lines_lost(lambda: log.num_lost)
        assert value(metrics, "gloss_log_lines_lost_total") == 0
        log.lifecycle("draining", num_calls=1)
        log.lifecycle("draining", num_calls=2)
        log.close()
        log.lifecycle("stopped")
    assert value(metrics, "gloss_log_lines_lost_total") == 3


def test_refusals_and_deaths() -> None:
    telemetry = Telemetry()
    telemetry.rejected("QUEUE_FULL", 0.03)
    telemetry.rejected("RATE_LIMITED", 0.07)
    # It had run: no refusal at the door.
    telemetry.rejected("SLOW_READER", None)
    telemetry.engine_died()
    metrics = telemetry.metrics
    assert value(metrics, "gloss_refusal_seconds_count") == 2
    assert value(metrics, "gloss_refusal_seconds_bucket", le="0.05") == 1
    assert value(metrics, "gloss_rejected_calls_total", reason="SLOW_READER") == 1
    assert value(metrics, "gloss_engine_deaths_total") == 1
    assert value(metrics, "gloss_engine_restarts_total") == 0


def test_times_and_tokens_are_by_priority() -> None:
    telemetry = Telemetry()
    telemetry.item_queued(3.0, "batch", 400)
    telemetry.item_queued(0.05, "interactive", 200)
    telemetry.first_token(0.2, "interactive")
    telemetry.run_finished(1.5, "Verbalize", "interactive")
    metrics = telemetry.metrics
    assert value(metrics, "gloss_queue_time_seconds_sum", priority="batch") == 3
    assert value(metrics, "gloss_queue_time_seconds_count", priority="interactive") == 1
    assert value(metrics, "gloss_time_to_first_token_seconds_count", priority="batch") == 0
    name = "gloss_end_to_end_seconds_sum"
    assert value(metrics, name, method="Verbalize", priority="interactive") == 1.5
    assert value(metrics, name, method="Explain", priority="batch") == 0
    assert value(metrics, "gloss_requested_tokens_total") == 600


def test_memory_of_a_device() -> None:
    telemetry = Telemetry()
    stats = EngineStats(device_bytes=80, device_reserved_bytes=60, device_used_bytes=50)
    telemetry.engine_step(0.0, 0, stats)
    metrics = telemetry.metrics
    assert value(metrics, "gloss_device_memory_bytes") == 80
    assert value(metrics, "gloss_device_memory_reserved_bytes") == 60
    assert value(metrics, "gloss_device_memory_used_bytes") == 50
    response = telemetry.stats_response()
    assert (response.device_memory_reserved_bytes, response.device_memory_bytes) == (60, 80)
    # What a dead engine held is free; the device is still there.
    telemetry.engine_restarted()
    assert value(metrics, "gloss_device_memory_reserved_bytes") == 0
    assert value(metrics, "gloss_device_memory_bytes") == 80
