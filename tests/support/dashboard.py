"""The Grafana dashboard of deploy/, and which metrics it and the rules speak of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from support.prometheus_process import DEPLOY

FILE = DEPLOY / "grafana" / "dashboards" / "gloss.json"
_PACKAGES = {"gloss_api", "gloss_client", "gloss_engine", "gloss_kernels", "gloss_server"}
_VARIABLES = {
    "$job": ".*",
    "$instance": ".*",
    "$window": "1m",
    "$__rate_interval": "10s",
    "${datasource}": "",
}


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    return json.loads(FILE.read_text())


def panels(kinds: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Its panels but for the headings of rows."""
    for panel in dashboard()["panels"]:
        if panel["type"] != "row" and (not kinds or panel["type"] in kinds):
            yield panel


def expressions() -> Iterator[tuple[str, str]]:
    """(panel's title, expression) of all, with Grafana's variables written out."""
    for panel in panels():
        for target in panel["targets"]:
            written = target["expr"]
            for name, value in _VARIABLES.items():
                written = written.replace(name, value)
            assert "$" not in written, f"a variable nobody knows in {written}"
            yield panel["title"], written


def metrics_in(text: str) -> set[str]:
    """The server's metrics that a text names; what rules record has a colon and is none."""
    found = set(re.findall(r"(?<![:\w])(?:gloss|process)_[a-z0-9_]+(?![:\w])", text))
    return found - _PACKAGES
