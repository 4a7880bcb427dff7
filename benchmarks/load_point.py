"""One offered load, from the records of its calls: latencies, goodput at the objectives, refusals.

A call belongs to the window in which it was due, however long it took. So nothing that went wrong
is missing: calls that are good, late, refused, expired and failed together are those offered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from common import quantile
from load_records import CallRecord

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What a good answer is, seconds.

    Attributes:
        end_to_end: a call has ended well within it; also its deadline, which the server is told.
        first_token: of streams, at p95.
        refusal: of what is refused, at p99.
    """

    end_to_end: float = 2.0
    first_token: float = 0.25
    refusal: float = 0.05

    def is_good(self, call: CallRecord) -> bool:
        """Whether a call's explanations count as goodput."""
        return call.code == "OK" and not call.failed and call.end_to_end <= self.end_to_end


def point_row(
    calls: Iterable[CallRecord], begin: float, end: float, objectives: Objectives
) -> dict[str, Any]:
    """What came of the calls that were due in a window.

    Rates are a second; times are ms; shares are of the calls offered.

    Args:
        begin, end: monotonic seconds.
    """
    due = [call for call in calls if begin <= call.intended < end]
    seconds = end - begin
    well = [call for call in due if call.code == "OK"]
    good = [call for call in well if objectives.is_good(call)]
    refused = [call for call in due if call.is_refusal]
    expired = [call for call in due if call.code == "DEADLINE_EXCEEDED"]
    num_due = max(len(due), 1)
    first = [t for call in well if (t := call.time_to_first) is not None]
    return {
        "calls": len(due),
        "offered": len(due) / seconds,
        "done": sum(call.explanations for call in well) / seconds,
        "goodput": sum(call.explanations for call in good) / seconds,
        "good_tokens": sum(call.tokens for call in good),
        "good": len(good) / num_due,
        "late": (len(well) - len(good)) / num_due,
        "refused": len(refused) / num_due,
        "expired": len(expired) / num_due,
        "failed": (len(due) - len(well) - len(refused) - len(expired)) / num_due,
        "reasons": dict(Counter(call.reason or call.code for call in due if call.code != "OK")),
        **_quantiles("call", (call.end_to_end for call in well)),
        **_quantiles("first", first),
        **_quantiles("gap", (gap for call in well for gap in call.gaps)),
        **_quantiles("refusal", (call.end_to_end for call in refused)),
        "lag_p99": _milliseconds(quantile((call.lag for call in due), 0.99)),
        "lag_max": _milliseconds(quantile((call.lag for call in due), 1.0)),
    }


def verdict(rows: list[dict[str, Any]], objectives: Objectives) -> dict[str, Any]:
    """What a sweep says: where the knee is, and what is left of the goodput beyond it.

    Args:
        rows: of `point_row`, by rising offered rate.
    """
    peak = max(rows, key=lambda row: row["goodput"])
    past = [row for row in rows if row["offered"] > peak["offered"]]
    refusals = [row["refusal_p99"] for row in past if row["refusal_p99"] is not None]
    return {
        "peak_goodput": peak["goodput"],
        "peak_offered": peak["offered"],
        "points_past_peak": len(past),
        "goodput_past_peak": min((row["goodput"] / peak["goodput"] for row in past), default=None)
        if peak["goodput"]
        else None,
        "refusal_p99_past_peak": max(refusals, default=None),
        "holds_end_to_end_to": _held(rows, "call_p95", objectives.end_to_end),
        "holds_first_token_to": _held(rows, "first_p95", objectives.first_token),
    }


def _held(rows: list[dict[str, Any]], column: str, seconds: float) -> float | None:
    """The highest offered rate up to which a quantile of calls that ended well is in its bound, and
    19 of 20 calls do end well."""
    held = None
    for row in rows:
        value = row[column]
        if value is None or value > 1000 * seconds or row["good"] + row["late"] < 0.95:
            break
        held = row["offered"]
    return held


def _quantiles(name: str, seconds: Iterable[float]) -> dict[str, float | None]:
    values = list(seconds)
    return {
        f"{name}_p{round(100 * share)}": _milliseconds(quantile(values, share))
        for share in QUANTILES
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
