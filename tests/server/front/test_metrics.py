"""Metrics as a scraper reads them: names, units, bounds, closed label values, true counts."""

from __future__ import annotations

import dataclasses
import math
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gloss_api.v1 import gloss_pb2
from gloss_engine.stats import EngineStats
from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.front import labels
from gloss_server.front.metrics_server import MetricsServer
from gloss_server.front.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True)
class Loaded:
    version: str = "0.1.0"
    model: str = "embedded"
    fingerprint: str = "0123456789abcdef"
    device: str = "cpu"
    dtype: str = "float32"
    fve_baseline: float | None = 0.5
    num_slots: int = 8
    num_pages: int = 10


class FakeClock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def telemetry(clock: FakeClock) -> Telemetry:
    telemetry = Telemetry(clock=clock)
    telemetry.model_loaded(Loaded())
    telemetry.engine_state("serving")
    return telemetry


def families(telemetry: Telemetry) -> dict[str, Metric]:
    text = generate_latest(telemetry.metrics.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(telemetry: Telemetry, name: str, **wanted: str) -> float:
    """The value of one sample; a histogram's is asked for by its _count or _sum."""
    found = [
        sample.value
        for family in families(telemetry).values()
        for sample in family.samples
        if sample.name == name and sample.labels == wanted
    ]
    assert len(found) == 1, (name, wanted, found)
    return found[0]


def total(telemetry: Telemetry, name: str) -> float:
    """The sum of a family's samples."""
    return sum(sample.value for sample in families(telemetry)[name].samples)


def ours(telemetry: Telemetry) -> Iterator[Metric]:
    for name, family in families(telemetry).items():
        if not name.endswith("_created") and not name.startswith("process_"):
            yield family


def test_names_units_and_help_are_as_promtool_wants_them(telemetry: Telemetry) -> None:
    forbidden = re.compile(r"_(ms|us|milliseconds|minutes|kb|mb|percent|info_total)(_|$)")
    count = 0
    for family in ours(telemetry):
        count += 1
        assert re.fullmatch(r"gloss_[a-z0-9_]+", family.name), family.name
        assert family.documentation.strip() and family.documentation.endswith("."), family.name
        assert not forbidden.search(family.name), family.name
        # The parser takes _total off a counter's family; on anything else it must not stand.
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert family.type not in family.name, "a name does not repeat its type"
        if family.type == "counter":
            assert all(sample.name.endswith(("_total", "_created")) for sample in family.samples)
        for sample in family.samples:
            assert {"le", "quantile"}.isdisjoint(sample.labels) or family.type == "histogram"
    assert count >= 33


def bounds(family: Metric) -> list[float]:
    return sorted(
        {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
    )


def test_bounds_of_durations(telemetry: Telemetry) -> None:
    objectives = {
        "gloss_queue_time_seconds": 0.1,
        "gloss_time_to_first_token_seconds": 0.25,
        "gloss_end_to_end_seconds": 2.0,
        "gloss_call_seconds": 2.0,
        "gloss_watch_lag_seconds": 1.0,
        "gloss_refusal_seconds": 0.05,
    }
    durations = [f for f in ours(telemetry) if f.type == "histogram" and "_seconds" in f.name]
    assert objectives.keys() <= {family.name for family in durations} and len(durations) == 10
    for family in durations:
        *finite, last = bounds(family)
        assert last == math.inf and finite[0] == 0.001 and finite[-1] >= 2
        assert all(b / a <= 2 for a, b in zip(finite, finite[1:], strict=False)), family.name
        assert {0.1, 0.25, 1.0, 2.0} <= set(finite)
        assert objectives.get(family.name, 1.0) in finite


def test_bounds_of_ratios_and_of_mse(telemetry: Telemetry) -> None:
    mse = bounds(families(telemetry)["gloss_reconstruction_mse"])
    assert mse[-2:] == [4.0, math.inf] and mse[0] > 0
    occupancy = bounds(families(telemetry)["gloss_batch_occupancy_ratio"])
    assert occupancy[-2:] == [1.0, math.inf]


def test_every_series_of_a_closed_set_is_there_from_the_start(telemetry: Telemetry) -> None:
    for name in (*labels.METHODS, "OTHER"):
        assert value(telemetry, "gloss_calls_total", method=name, code="INTERNAL") == 0
    for reason in labels.REJECTIONS:
        assert value(telemetry, "gloss_rejected_calls_total", reason=reason) == 0
    assert value(telemetry, "gloss_expired_calls_total", phase="running") == 0
    for phase in labels.START_PHASES:
        assert value(telemetry, "gloss_engine_start_seconds", phase=phase) == 0
    assert labels.FINISH_REASONS == ("eos", "closing_tag", "stop", "length", "cancelled", "error")
    assert labels.SKIPS == ("every", "max_pending", "target_ended")
    for reason in labels.SKIPS:
        assert value(telemetry, "gloss_skipped_tokens_total", reason=reason) == 0
    assert labels.STATES == ("loading", "serving", "restarting", "draining")
    assert "no_fve_baseline" in labels.FLAGS and "Watch" in labels.METHODS


def test_text_of_callers_makes_no_series(telemetry: Telemetry) -> None:
    before = generate_latest(telemetry.metrics.registry).count(b"\n")
    for number in range(300):
        text = f'evil"{number}\n# HELP x'
        telemetry.call_started(text)
        telemetry.call_ended(text, text, text, 0.1)
        telemetry.rejected(text)
        telemetry.expired(text)
        telemetry.cancelled(text)
        telemetry.item_error(text)
        telemetry.explanation(text, 1, None, [text])
    after = generate_latest(telemetry.metrics.registry)
    assert after.count(b"\n") == before and b"evil" not in after
    assert value(telemetry, "gloss_rejected_calls_total", reason="OTHER") == 300
    assert value(telemetry, "gloss_calls_total", method="OTHER", code="UNKNOWN") == 300
    # GetStats goes to callers: neither may it grow with what they send.
    assert len(telemetry.stats_response().SerializeToString()) < 1000


def test_calls(telemetry: Telemetry) -> None:
    for method in ("Verbalize", "/gloss_api.v1.GlossService/Verbalize", "/grpc.health.v1.H/Check"):
        telemetry.call_started(method)
    assert value(telemetry, "gloss_calls_in_flight") == 3
    telemetry.call_ended("Verbalize", "OK", None, 0.2)
    telemetry.call_ended(
        "/gloss_api.v1.GlossService/Verbalize", "RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.001
    )
    telemetry.call_ended("/grpc.health.v1.H/Check", "OK", None, 0.001)
    assert value(telemetry, "gloss_calls_in_flight") == 0
    assert value(telemetry, "gloss_calls_total", method="Verbalize", code="OK") == 1
    assert value(telemetry, "gloss_calls_total", method="OTHER", code="OK") == 1
    assert value(telemetry, "gloss_calls_total", method="Verbalize", code="RESOURCE_EXHAUSTED") == 1
    assert value(telemetry, "gloss_call_errors_total", reason="QUEUE_FULL") == 1
    assert value(telemetry, "gloss_call_seconds_count", method="Verbalize") == 2
    assert value(telemetry, "gloss_call_seconds_sum", method="Verbalize") == pytest.approx(0.201)


def step(telemetry: Telemetry, clock: FakeClock, after: float, **stats: Any) -> None:
    clock.now += after
    telemetry.engine_step(0.004, stats.pop("rows", 4), EngineStats(**stats))


def test_counters_of_the_engine_never_go_down(telemetry: Telemetry, clock: FakeClock) -> None:
    def tokens() -> tuple[float, float, float]:
        return (
            value(telemetry, "gloss_generated_tokens_total"),
            value(telemetry, "gloss_prefix_tokens_reused_total"),
            value(telemetry, "gloss_prefill_tokens_total"),
        )

    def stats(n: int) -> dict[str, int]:
        return {
            "num_steps": n,
            "decode_tokens": 10 * n,
            "prefix_tokens_reused": 100 * n,
            "prefill_tokens": n,
        }

    step(telemetry, clock, 0, **stats(3))
    assert tokens() == (30, 300, 3)
    telemetry.engine_state("restarting")
    telemetry.engine_restarted()
    step(telemetry, clock, 1, **stats(5))
    assert tokens() == (80, 800, 8)
    # And where a restart was not told of.
    step(telemetry, clock, 1, **stats(2))
    assert tokens() == (100, 1000, 10)
    assert value(telemetry, "gloss_engine_restarts_total") == 1
    response = telemetry.stats_response()
    assert (response.generated_tokens, response.prefix_tokens_reused) == (100, 1000)
    assert response.engine_restarts == 1


def test_passes_of_the_ar_and_memory_that_does_not_suffice(
    telemetry: Telemetry, clock: FakeClock
) -> None:
    def stats(n: int) -> dict[str, Any]:
        more = {"score_seconds": 0.25 * n, "ar_tokens": 40 * n, "out_of_memory": n - 1}
        return {"num_steps": n} | more

    for n in (1, 1, 3):
        step(telemetry, clock, 1, rows=0, **stats(n))
    assert value(telemetry, "gloss_score_seconds_count") == 2
    assert value(telemetry, "gloss_score_seconds_sum") == pytest.approx(0.75)
    assert value(telemetry, "gloss_ar_tokens_total") == 120
    assert value(telemetry, "gloss_out_of_memory_total") == 2
    telemetry.engine_restarted()
    step(telemetry, clock, 1, rows=0, **stats(2))
    assert value(telemetry, "gloss_ar_tokens_total") == 200
    assert value(telemetry, "gloss_out_of_memory_total") == 3


def test_what_the_target_does_is_counted(telemetry: Telemetry, clock: FakeClock) -> None:
    def stats(n: int) -> dict[str, Any]:
        return {
            "num_steps": n,
            "target_tokens_read": 30 * n,
            "target_tokens_generated": 2 * n,
            "captured": 5 * n,
            "capture_seconds": 0.25 * n,
            "skipped": {"every": n, "max_pending": 4 * n},
        }

    def counts() -> list[float]:
        names = ("target_tokens_read", "target_tokens_generated", "captured")
        reasons = ("every", "max_pending", "target_ended")
        return [value(telemetry, f"gloss_{name}_total") for name in names] + [
            value(telemetry, "gloss_skipped_tokens_total", reason=reason) for reason in reasons
        ]

    step(telemetry, clock, 0, rows=0, num_reading=3, num_watching=2, **stats(1))
    assert counts() == [30, 2, 5, 1, 4, 0]
    # A step without a pass of the target is none of its time.
    step(telemetry, clock, 1, num_reading=0, num_watching=2, **stats(1))
    step(telemetry, clock, 1, num_reading=0, num_watching=2, **stats(3))
    assert counts() == [90, 6, 15, 3, 12, 0]
    assert value(telemetry, "gloss_capture_seconds_count") == 2
    assert value(telemetry, "gloss_capture_seconds_sum") == pytest.approx(0.75)
    assert value(telemetry, "gloss_watching") == 2 and value(telemetry, "gloss_reading") == 0
    telemetry.engine_restarted()
    assert value(telemetry, "gloss_watching") == 0
    step(telemetry, clock, 1, rows=0, **stats(1))
    assert counts() == [120, 8, 20, 4, 16, 0]
    response = telemetry.stats_response()
    assert (response.target_tokens_read, response.captured) == (120, 20)
    assert response.target_tokens_generated == 8 and response.watching == 0
    assert {count.name: count.count for count in response.skipped} == {
        "every": 4,
        "max_pending": 16,
    }
    telemetry.watch_lag(0.5)
    assert value(telemetry, "gloss_watch_lag_seconds_count") == 1


def test_the_last_start_is_told_by_phase(telemetry: Telemetry) -> None:
    for load_seconds, warm_up_seconds in ((20.0, 9.0), (4.5, 8.0)):
        telemetry.engine_started(load_seconds, warm_up_seconds)
    assert value(telemetry, "gloss_engine_start_seconds", phase="loading") == 4.5
    assert value(telemetry, "gloss_engine_start_seconds", phase="warm_up") == 8.0


def test_a_dead_engine_holds_nothing(telemetry: Telemetry, clock: FakeClock) -> None:
    gauges = ("running", "waiting", "waiting_to_score", "kv_pages_used")
    step(
        *(telemetry, clock, 0),
        **{
            "num_running": 4,
            "num_waiting": 3,
            "num_waiting_batch": 1,
            "num_to_score": 2,
            "pages_used": 9,
        },
        pages_total=10,
    )
    assert [total(telemetry, f"gloss_{name}") for name in gauges] == [4, 3, 2, 9]
    assert value(telemetry, "gloss_waiting", priority="batch") == 1
    telemetry.engine_state("restarting")
    assert [total(telemetry, f"gloss_{name}") for name in gauges] == [0, 0, 0, 0]
    assert value(telemetry, "gloss_kv_pages") == 10
    assert value(telemetry, "gloss_serving") == 0
    assert value(telemetry, "gloss_state", state="restarting") == 1
    assert value(telemetry, "gloss_state", state="serving") == 0


def test_gaps_between_tokens(telemetry: Telemetry, clock: FakeClock) -> None:
    step(telemetry, clock, 0, num_running=4)
    step(telemetry, clock, 0.02, num_running=0)
    # Nobody ran on: a long idle time is no latency.
    step(telemetry, clock, 50, num_running=4)
    # A report without rows ends no gap.
    step(telemetry, clock, 0.01, rows=0, num_running=4)
    step(telemetry, clock, 0.01, num_running=4)
    telemetry.engine_restarted()
    step(telemetry, clock, 9, num_running=4)
    assert value(telemetry, "gloss_inter_token_latency_seconds_count") == 2
    assert value(telemetry, "gloss_inter_token_latency_seconds_sum") == pytest.approx(0.04)
    assert value(telemetry, "gloss_engine_step_seconds_count") == 5
    assert value(telemetry, "gloss_batch_occupancy_ratio_sum") == pytest.approx(5 * 4 / 8)


def test_every_reason_of_the_front_has_a_label() -> None:
    # What a call is refused for must not be counted without a name.
    assert {"QUEUE_FULL", "DEADLINE_UNREACHABLE", "LOADING", "DRAINING"} <= set(labels.REJECTIONS)
    assert {"INTERNAL", "ZERO_VECTOR"} <= {*labels.CALL_REASONS, *labels.ITEM_ERRORS}


def test_explanations_and_their_quality(telemetry: Telemetry) -> None:
    telemetry.explanation("eos", 5, 0.25, ["unclosed", "low_fidelity"])
    telemetry.explanation("eos", 5, 0.75, [])
    telemetry.explanation("length", 5, None, [])
    telemetry.item_error("NON_FINITE_OUTPUT")
    telemetry.item_error("ZERO_VECTOR")
    assert value(telemetry, "gloss_explanations_total", finish_reason="eos") == 2
    assert value(telemetry, "gloss_unclosed_explanations_total") == 1
    assert value(telemetry, "gloss_explanation_flags_total", flag="low_fidelity") == 1
    assert value(telemetry, "gloss_reconstruction_mse_sum") == 1.0
    assert value(telemetry, "gloss_reconstruction_mse_count") == 2
    assert value(telemetry, "gloss_non_finite_rows_total") == 1
    assert value(telemetry, "gloss_item_errors_total", reason="ZERO_VECTOR") == 1
    assert value(telemetry, "gloss_fve_baseline") == 0.5
    response = telemetry.stats_response()
    assert {count.name: count.count for count in response.explanations} == {"eos": 2, "length": 1}
    assert response.scored == 2 and response.mean_mse == 0.5


def test_what_is_loaded_is_one_series(telemetry: Telemetry) -> None:
    telemetry.model_loaded(Loaded(dtype='b"f\n', fve_baseline=None))
    (sample,) = families(telemetry)["gloss_build_info"].samples
    assert sample.labels["dtype"] == 'b"f\n' and sample.value == 1
    assert math.isnan(value(telemetry, "gloss_fve_baseline"))


def test_the_pool_has_its_size_before_any_work(telemetry: Telemetry) -> None:
    for pages in (10, 12):
        telemetry.model_loaded(Loaded(num_pages=pages))
        telemetry.engine_restarted()
        assert value(telemetry, "gloss_kv_pages") == pages
        assert telemetry.stats_response().kv_pages_total == pages


def test_the_live_figures(telemetry: Telemetry, clock: FakeClock) -> None:
    empty = telemetry.stats_response()
    assert not empty.latencies and not empty.HasField("mean_mse")
    assert empty.state == gloss_pb2.SERVING_STATE_SERVING and empty.num_slots == 8
    telemetry.call_started("Verbalize")
    for number in range(1, 11):
        step(telemetry, clock, 0.5, num_running=4, num_waiting=2, decode_tokens=20 * number)
        telemetry.item_queued(0.05, "interactive", 40)
        telemetry.first_token(0.2, "interactive")
        telemetry.run_finished(1.0, "Verbalize", "interactive")
        telemetry.explanation("eos", 20, None, [])
        telemetry.watch_lag(0.25)
    telemetry.run_finished(1.0, "Explain", "batch")
    found = telemetry.stats_response()
    assert found.uptime_seconds == 5 and found.calls_in_flight == 1
    assert (found.running, found.waiting) == (4, 2)
    assert found.tokens_per_second == pytest.approx(40, rel=0.1)
    assert found.explanations_per_second == pytest.approx(2, rel=0.1)
    latencies = {latency.name: latency for latency in found.latencies}
    measured = ["queue", "first_token", "inter_token", "end_to_end", "engine_step", "watch_lag"]
    assert list(latencies) == measured
    assert latencies["watch_lag"].p95 == pytest.approx(0.25, rel=0.025)
    assert latencies["first_token"].count == 10 and latencies["end_to_end"].count == 11
    assert latencies["inter_token"].p99 == pytest.approx(0.5, rel=0.025)


def test_the_endpoint(telemetry: Telemetry) -> None:
    registry = telemetry.metrics.registry
    shown = MetricsServer(registry, Address(host="127.0.0.1", port=0))
    url = f"http://127.0.0.1:{shown.port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            text = reply.read().decode()
        assert reply.headers["Content-Type"].startswith("text/plain")
        assert "gloss_serving 1.0" in text and "process_open_fds" in text
        taken = Address(host="127.0.0.1", port=shown.port)
        with pytest.raises(CommandError, match=rf"{taken}: cannot listen there: .* in use"):
            MetricsServer(registry, taken)
        # A connection that says nothing keeps nobody waiting.
        with (
            socket.create_connection(("127.0.0.1", shown.port)),
            urllib.request.urlopen(url, timeout=5) as reply,
        ):
            assert reply.status == 200
    finally:
        shown.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", shown.port), timeout=1).close()
    with pytest.raises(CommandError, match="cannot listen there"):
        MetricsServer(registry, Address(host="192.0.2.1", port=0))


def test_without_file_descriptors_the_endpoint_waits_and_recovers() -> None:
    code = (
        "import resource, time\n"
        "from gloss_server.address import Address\n"
        "from gloss_server.front.metrics import Metrics\n"
        "from gloss_server.front.metrics_server import MetricsServer\n"
        "shown = MetricsServer(Metrics().registry, Address(host='127.0.0.1', port=0))\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))\n"
        "print(shown.port, flush=True)\n"
        "input()\n"
        "begun = time.process_time(); time.sleep(0.7); used = time.process_time() - begun\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, before)\n"
        "print(used, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)):
            process.stdin.write("\n")
            process.stdin.flush()
            # Spinning, it would use all of the 0.7 s.
            assert float(process.stdout.readline()) < 0.35
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as reply:
            assert reply.status == 200
        process.stdin.write("\n")
    assert process.returncode == 0


def test_the_front_stays_light() -> None:
    code = (
        "import sys, gloss_server.front.telemetry\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "[]\n"


def test_the_engine_reports_what_is_counted_here() -> None:
    # The counters that `_count` and `_show` read; a renamed one must not read as 0.
    assert {
        *("num_steps", "decode_tokens", "prefix_tokens_reused", "prefill_tokens", "num_running"),
        *("num_waiting", "num_to_score", "pages_used", "pages_total"),
        *("score_seconds", "ar_tokens", "out_of_memory", "num_waiting_batch"),
    } <= {field.name for field in dataclasses.fields(EngineStats)}
