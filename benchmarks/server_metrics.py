"""What a server's /metrics page says, and what became of it between two looks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Page:
    """One look.

    Attributes:
        values: by series, its name followed by its labels in order, as in `name{a="b"}`.
        buckets: of histograms, by name: (bound, cumulative count) in order, over all labels.
    """

    values: dict[str, float]
    buckets: dict[str, dict[float, float]]

    def value(self, series: str) -> float:
        """A series' value; 0 where there is none."""
        return self.values.get(series, 0.0)


def read_page(address: str) -> Page:
    """Fetch the page of HOST:PORT."""
    with urlopen(f"http://{address}/metrics", timeout=_SECONDS) as reply:
        return parse_page(reply.read().decode())


def parse_page(text: str) -> Page:
    """The page's series."""
    values: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            if bound is not None:
                name = sample.name.removesuffix("_bucket")
                counts = buckets.setdefault(name, {})
                counts[float(bound)] = counts.get(float(bound), 0.0) + sample.value
                continue
            pairs = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
            values[f"{sample.name}{{{pairs}}}" if pairs else sample.name] = sample.value
    return Page(values=values, buckets=buckets)


def histogram_quantile(before: Page, after: Page, name: str, share: float) -> float | None:
    """A quantile of what a histogram counted between two looks, as PromQL estimates it: linear
    within a bucket; None of nothing."""
    bounds = sorted(after.buckets.get(name, {}))
    earlier = before.buckets.get(name, {})
    counts = [after.buckets[name][bound] - earlier.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    rank, below, start = share * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            if math.isinf(bound):
                return start
            return start + (bound - start) * (rank - below) / (count - below)
        below, start = count, bound
    return start
