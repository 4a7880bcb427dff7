"""The arithmetic of load tests: arrivals, mixes, what becomes of calls, quantiles of histograms,
and the slope of memory."""

from __future__ import annotations

import math
from itertools import islice, takewhile

import numpy as np
import pytest
from common import table
from load_arrivals import Mix, poisson_arrivals
from load_point import Objectives, point_row, verdict
from load_records import CallRecord, parse_records
from load_rounds import median_row, round_order
from server_metrics import histogram_quantile, parse_page
from soak_samples import Samples, floors, theil_sen


def _call(intended: float, seconds: float, code: str = "OK", **values: object) -> CallRecord:
    record = CallRecord(
        rpc="Verbalize", intended=intended, began=intended, ended=intended + seconds, code=code
    )
    if code == "OK":
        record.explanations, record.tokens = 4, 100
    for name, value in values.items():
        setattr(record, name, value)
    return record


def test_arrivals_are_poisson_and_follow_their_seed() -> None:
    at = list(islice(poisson_arrivals(50.0, np.random.default_rng(3)), 20_000))
    assert at == list(islice(poisson_arrivals(50.0, np.random.default_rng(3)), 20_000))
    assert at != list(islice(poisson_arrivals(50.0, np.random.default_rng(4)), 20_000))
    gaps = np.diff(at)
    assert gaps.min() > 0
    # Exponential: mean and deviation are the same, and e^-1 of the gaps are longer than the mean.
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() == pytest.approx(0.02, rel=0.05)
    assert np.mean(gaps > 0.02) == pytest.approx(math.exp(-1), abs=0.01)
    # Counts of seconds: the variance is the mean.
    counts = np.bincount(np.asarray(at).astype(int))[:-1]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.25)


def test_several_sources_are_one_of_all_their_rates() -> None:
    sources = [poisson_arrivals(25.0, np.random.default_rng([1, n])) for n in range(4)]
    counts = [len(list(takewhile(lambda at: at < 100, source))) for source in sources]
    assert len(set(counts)) > 1
    assert sum(counts) == pytest.approx(10_000, rel=0.05)


def test_a_mix_gives_shares() -> None:
    mix = Mix.parse("Verbalize=3, StreamVerbalize", ("Verbalize", "StreamVerbalize", "Watch"))
    assert mix.names == ("Verbalize", "StreamVerbalize") and mix.shares == (0.75, 0.25)
    rng = np.random.default_rng(0)
    drawn = [mix.draw(rng) for _ in range(4000)]
    assert drawn.count("Verbalize") == pytest.approx(3000, rel=0.05)


@pytest.mark.parametrize("text", ["", "Nope=1", "Watch=0", "Watch=-1", "Watch=x", "Watch=inf"])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--mix: got"):
        Mix.parse(text, ("Watch",))


def test_records_survive_their_file() -> None:
    record = _call(1.5, 2.0, first=1.75, gaps=[0.25, 0.5], began=1.625)
    lines = ['{"run": {"began": 1.0}}\n', record.line(), '{"generator": {"calls": 1}}\n']
    read = parse_records(lines)
    assert read.calls == (record,) and read.run == {"began": 1.0}
    assert read.generator == {"calls": 1}
    assert record.lag == 0.125 and record.time_to_first == 0.25 and record.end_to_end == 2.0
    with pytest.raises(ValueError, match="expected the run's line"):
        parse_records([record.line()])


def test_every_call_of_a_window_is_one_thing() -> None:
    calls = [
        _call(9.9, 0.1),
        *(_call(10.0 + n / 10, 0.5, first=10.1 + n / 10, gaps=[0.01]) for n in range(10)),
        _call(11.0, 3.0),
        _call(11.1, 0.4, failed=1),
        *(_call(11.2, 0.01, "RESOURCE_EXHAUSTED", reason="QUEUE_FULL") for _ in range(4)),
        _call(11.3, 0.02, "UNAVAILABLE", reason="DRAINING"),
        *(_call(11.4, 2.0, "DEADLINE_EXCEEDED", reason="DEADLINE_EXCEEDED") for _ in range(2)),
        _call(11.5, 0.2, "INTERNAL"),
        _call(20.0, 0.1),
    ]
    row = point_row(calls, 10.0, 20.0, Objectives(end_to_end=2.0))
    assert row["calls"] == 20 and row["offered"] == 2.0
    assert row["goodput"] == pytest.approx(4.0) and row["done"] == pytest.approx(4.8)
    shares = {name: row[name] for name in ("good", "late", "refused", "expired", "failed")}
    assert shares == pytest.approx(
        {"good": 0.5, "late": 0.1, "refused": 0.25, "expired": 0.1, "failed": 0.05}
    )
    assert row["reasons"] == {
        "QUEUE_FULL": 4,
        "DRAINING": 1,
        "DEADLINE_EXCEEDED": 2,
        "INTERNAL": 1,
    }
    assert row["call_p50"] == pytest.approx(500) and row["call_p99"] == pytest.approx(3000)
    assert row["first_p95"] == pytest.approx(100) and row["gap_p50"] == pytest.approx(10)
    assert row["refusal_p50"] == pytest.approx(10) and row["refusal_p99"] == pytest.approx(20)


def test_a_stall_shows_from_when_calls_were_due() -> None:
    """A generator that waits with the server sends late; the wait is the caller's all the same."""
    due = [n / 10 for n in range(20)]
    calls = [_call(at, max(2.0 - at, 0) + 0.008, began=max(at, 2.0)) for at in due]
    row = point_row(calls, 0.0, 2.0, Objectives())
    assert row["call_p95"] > 1500 and row["lag_max"] == pytest.approx(2000)
    assert max(call.ended - call.began for call in calls) < 0.01


def test_nothing_offered_is_no_figure() -> None:
    row = point_row([], 0.0, 1.0, Objectives())
    assert row["offered"] == 0 and row["call_p95"] is None and row["lag_p99"] is None


def test_the_knee_and_what_is_left_beyond_it() -> None:
    def row(offered: float, goodput: float, p95: float, refusal: float | None) -> dict[str, object]:
        return {
            "offered": offered,
            "goodput": goodput,
            "call_p95": p95,
            "first_p95": p95 / 10,
            "refusal_p99": refusal,
            "good": goodput / offered,
            "late": 0.0,
        }

    rows = [
        row(10, 10, 500, None),
        row(20, 20, 1500, None),
        row(30, 25, 1900, 8.0),
        row(60, 24, 1950, 12.0),
        row(90, 23, 1950, 20.0),
    ]
    found = verdict(rows, Objectives())
    assert found["peak_goodput"] == 25 and found["peak_offered"] == 30
    assert found["points_past_peak"] == 2
    assert found["goodput_past_peak"] == pytest.approx(0.92)
    assert found["refusal_p99_past_peak"] == 20.0
    assert found["holds_end_to_end_to"] == found["holds_first_token_to"] == 20
    assert verdict(rows[:2], Objectives())["goodput_past_peak"] is None


def test_quantiles_of_what_a_histogram_counted_in_between() -> None:
    page = """# TYPE wait_seconds histogram
wait_seconds_bucket{{method="a",le="1.0"}} {0}
wait_seconds_bucket{{method="a",le="2.0"}} {1}
wait_seconds_bucket{{method="a",le="+Inf"}} {2}
wait_seconds_count{{method="a"}} {2}
wait_seconds_sum{{method="a"}} 0
# TYPE done counter
done_total{{method="a",code="OK"}} {2}
"""
    before, after = parse_page(page.format(100, 100, 100)), parse_page(page.format(110, 130, 130))
    # 10 below 1, 20 between 1 and 2.
    assert histogram_quantile(before, after, "wait_seconds", 0.5) == pytest.approx(1.25)
    assert histogram_quantile(before, after, "wait_seconds", 0.1) == pytest.approx(0.3)
    assert histogram_quantile(before, before, "wait_seconds", 0.5) is None
    assert histogram_quantile(before, after, "absent", 0.5) is None
    assert after.value('done_total{code="OK",method="a"}') == 130 and after.value("absent") == 0
    beyond = parse_page(page.format(110, 130, 200))
    assert histogram_quantile(before, beyond, "wait_seconds", 0.99) == 2.0


def test_the_slope_is_not_moved_by_a_few_outliers() -> None:
    x = [float(n) for n in range(40)]
    y = [100 + 0.5 * n for n in x]
    for n in range(0, 40, 5):
        y[n] += 500
    assert theil_sen(x, y) == pytest.approx(0.5, abs=0.05)
    assert theil_sen([1.0], [2.0]) is None


def test_buffers_that_come_and_go_are_no_growth() -> None:
    rng = np.random.default_rng(0)
    at = [2.0 * n for n in range(300)]
    peaks = rng.exponential(15.0, 300) * (rng.random(300) < 0.7)
    for slope in (0.0, 2.0):
        values = [400 + slope * second / 60 + peak for second, peak in zip(at, peaks, strict=True)]
        samples = Samples(at=at, values={"engine_mib": values}, engine_pids=[1] * 300)
        assert samples.slope("engine_mib", 150.0) == pytest.approx(slope, abs=0.1)
    assert floors([(0.0, 3.0), (1.0, 2.0), (5.0, 7.0), (10.0, 9.0)], 2) == [(1.0, 2.0), (5.0, 7.0)]
    assert floors([(1.0, 3.0)], 4) == [(1.0, 3.0)]


def test_memory_of_an_engine_that_was_killed_does_not_count() -> None:
    at = [5.0 * n for n in range(24)]
    grown = [100.0 + n for n in range(24)]
    front = [10 + second / 60 for second in at]
    for num_before, slope in ((10, 0.0), (18, None)):
        engine = [*grown[:num_before], *[50.0] * (24 - num_before)]
        samples = Samples(
            at=at,
            values={"engine_mib": engine, "front_mib": front},
            engine_pids=[1] * num_before + [2] * (24 - num_before),
        )
        assert samples.slope("engine_mib", 0.0) == slope
        assert samples.slope("front_mib", 30.0) == pytest.approx(1.0)


def test_every_round_visits_every_rate_in_an_order_of_its_own() -> None:
    fractions = (2.0, 0.5, 1.0, 0.3, 3.0)
    orders = [round_order(fractions, number, seed=1) for number in range(3)]
    assert orders[0] == sorted(fractions)
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[1] == round_order(fractions, 1, seed=1) != round_order(fractions, 1, seed=2)


def test_a_rate_is_the_median_of_its_rounds() -> None:
    rows = [
        {"calls": 10, "goodput": 5.0, "refusal_p99": None, "reasons": {"A": 1}, "valid": True},
        {"calls": 12, "goodput": 9.0, "refusal_p99": 4.0, "reasons": {"A": 2}, "valid": True},
        {"calls": 11, "goodput": 6.0, "refusal_p99": 2.0, "reasons": {"B": 1}, "valid": False},
    ]
    merged = median_row(rows)
    assert (merged["goodput"], merged["goodput_low"], merged["goodput_high"]) == (6.0, 5.0, 9.0)
    assert merged["refusal_p99"] == 3.0 and merged["calls"] == 33
    assert merged["reasons"] == {"A": 3, "B": 1} and not merged["valid"]
    assert median_row(rows[:2])["valid"]
    assert median_row([row | {"refusal_p99": None} for row in rows])["refusal_p99"] is None


def test_a_table_without_rows_is_its_heading() -> None:
    """A soak whose load made no call ended in a traceback in place of its failures."""
    assert table([], ("rpc", "calls")) == "rpc  calls"
