"""Writes dashboards/gloss.json, which Grafana reads, of panels.yml, which says what is shown.

    python deploy/grafana/make_dashboard.py

The dashboard is for Grafana 10.3 and later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
PANELS, FILE = _HERE / "panels.yml", _HERE / "dashboards" / "gloss.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WINDOWS = ("1m", "5m", "15m", "1h")
_JOB = 'job=~"$job"'
_INSTANCE = f'{_JOB}, instance=~"$instance"'
_WIDTH, _HEIGHT = 24, 8
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of panels.yml.

    Attributes:
        title, text: what is shown, and what it means.
        unit: Grafana's name of it.
        queries: expressions by legend.
        kind: Grafana's type of panel.
        width: of 24 columns.
        least, most: the ends of the axis; None: as it comes.
    """

    title: str
    text: str
    unit: str
    queries: dict[str, str] = field(default_factory=dict)
    kind: str = "timeseries"
    width: int = 8
    least: float | None = 0
    most: float | None = None

    @classmethod
    def read(cls, entry: dict[str, Any]) -> list[Panel]:
        """The panels of an entry: one, or a histogram's two."""
        entry = dict(entry)
        selected = ", ".join(filter(None, ("S", entry.pop("labels", ""))))
        if metric := entry.pop("quantiles", None):
            buckets = f"sum by (le) (rate({metric}_bucket{{{selected}}}[W]))"
            queries = {p: f"histogram_quantile({q}, {buckets})" for p, q in _QUANTILES.items()}
            lines = cls(**entry, unit="s", width=12, queries=queries)
            entry["title"] += ", all of it"
            return [lines, cls._heatmap(entry | {"unit": "s"}, metric, selected)]
        if metric := entry.pop("heatmap", None):
            return [cls._heatmap(entry, metric, selected)]
        return [cls(**entry)]

    @classmethod
    def _heatmap(cls, entry: dict[str, Any], metric: str, selected: str) -> Panel:
        counts = f"sum by (le) (increase({metric}_bucket{{{selected}}}[$__rate_interval]))"
        return cls(**entry, kind="heatmap", width=12, queries={"{{le}}": counts})

    def as_json(self, number: int, left: int, top: int) -> dict[str, Any]:
        """The panel as Grafana reads it."""
        defaults: dict[str, Any] = {"unit": self.unit}
        if self.most is not None:
            defaults["max"] = self.most
        if self.kind in ("timeseries", "bargauge") and self.least is not None:
            defaults["min"] = self.least
        if self.kind == "timeseries":
            defaults["custom"] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
        queries = enumerate(self.queries.items())
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.text,
            "datasource": DATASOURCE,
            "gridPos": {"x": left, "y": top, "w": self.width, "h": _HEIGHT},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self._options(),
            "targets": [self._target(_ref(i), legend, query) for i, (legend, query) in queries],
            "transformations": self._transformations(),
        }

    def _target(self, ref: str, legend: str, query: str) -> dict[str, Any]:
        instant = self.kind in ("stat", "bargauge", "table")
        return {
            "refId": ref,
            "datasource": DATASOURCE,
            "expr": expression(query),
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            "format": {"heatmap": "heatmap", "table": "table"}.get(self.kind, "time_series"),
        }

    def _options(self) -> dict[str, Any]:
        if self.kind == "heatmap":
            return {
                "calculate": False,
                "yAxis": {"unit": self.unit},
                "color": {"mode": "scheme", "scheme": "Spectral", "steps": 64},
                "cellGap": 1,
                "tooltip": {"mode": "single", "yHistogram": True},
            }
        if self.kind in ("stat", "bargauge"):
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": reduced, "orientation": "horizontal"}
        if self.kind == "table":
            return {"showHeader": True}
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}

    def _transformations(self) -> list[dict[str, Any]]:
        """A table has its queries' values as columns, under their legends."""
        if self.kind != "table":
            return []
        names = {f"Value #{_ref(i)}": legend for i, legend in enumerate(self.queries)}
        hidden = {"Time": True, "__name__": True, **({"Value": True} if len(names) == 1 else {})}
        organized = {"excludeByName": hidden, "renameByName": names}
        return [{"id": "merge", "options": {}}, {"id": "organize", "options": organized}]


def _ref(index: int) -> str:
    return chr(ord("A") + index)


def expression(query: str) -> str:
    """A query as Grafana has it: `S`, `J` and `W` written out."""
    written = query.replace("{S", "{" + _INSTANCE).replace("{J", "{" + _JOB)
    return written.replace("[W]", "[$window]")


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    """A variable whose values are those of a label."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _variables() -> list[dict[str, Any]]:
    """What is chosen at the top of the page."""
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        _variable("job", "job", "label_values(gloss_serving, job)"),
        _variable("instance", "replica", f"label_values(gloss_serving{{{_JOB}}}, instance)"),
        {
            "name": "window",
            "label": "window",
            "type": "custom",
            "query": ",".join(WINDOWS),
            "current": {"text": "5m", "value": "5m"},
            "options": [{"text": w, "value": w, "selected": w == "5m"} for w in WINDOWS],
        },
    ]


def _panels() -> list[dict[str, Any]]:
    """Rows one below the other, panels from left to right."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in yaml.safe_load(PANELS.read_text()):
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        heading = {"id": len(panels) + 1, "type": "row", "title": row["row"], "gridPos": place}
        panels.append(heading | {"collapsed": False, "panels": []})
        top, left = top + 1, 0
        for shown in (panel for entry in row["panels"] for panel in Panel.read(entry)):
            if left + shown.width > _WIDTH:
                top, left = top + _HEIGHT, 0
            panels.append(shown.as_json(len(panels) + 1, left, top))
            left += shown.width
        top += _HEIGHT
    return panels


def text() -> str:
    """The file's content."""
    dashboard = {
        "uid": "gloss-service",
        "title": "Gloss",
        "description": "The service: objectives, latency, queue, batch, fidelity, errors, engine.",
        "tags": ["gloss"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": _panels(),
    }
    return json.dumps(dashboard, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
