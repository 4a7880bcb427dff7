"""A real Prometheus watches a real server under load: panels show something, rules work."""

from __future__ import annotations

import math
import os
import re
import runpy
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gloss_server.embedded import embedded_pair
from support.dashboard import FILE, dashboard, expressions, metrics_in, panels
from support.mixed_load import SETTINGS, MixedLoad
from support.prometheus_process import DEPLOY, PrometheusProcess
from support.server_process import ServerProcess

UNUSED = {
    # The front's and the engine's address space says nothing: CUDA reserves what it never uses.
    "process_virtual_memory_bytes",
    "gloss_engine_process_virtual_memory_bytes",
    # The engine holds one socket and the device.
    "gloss_engine_process_open_fds",
    "gloss_engine_process_max_fds",
}
"""Metrics that neither dashboard nor rules speak of, on purpose."""
IMMEDIATE = {"GlossEngineRestarted"}
"""What fires after one death of the engine, without a `for` of minutes."""


class Watched:
    """A server under load, Prometheus beside it, and what was seen before anything broke."""

    def __init__(self, server: ServerProcess, prometheus: PrometheusProcess) -> None:
        self.server, self.prometheus = server, prometheus
        self.fired_when_healthy: set[str] = set()

    def exposed(self) -> set[str]:
        """The names on /metrics, a histogram's once."""
        with urlopen(f"http://{self.server.ports['metrics']}/metrics", timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            names = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
        return {name for name in names if not name.endswith("_created")}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All calls, some refused, expired and cancelled; then the engine is killed and comes back."""
    root = tmp_path_factory.mktemp("watched")
    column = pq.read_table(embedded_pair().activations)["activation_vector"]
    rows = np.stack(column.to_numpy()).astype(np.float32)
    with ServerProcess(root / "server", settings=SETTINGS) as server:
        server.wait_ready()
        with PrometheusProcess(root, server.ports["metrics"]) as prometheus:
            prometheus.wait_ready()
            # A counter is there before it counts: increase() needs to have seen the 0.
            prometheus.wait_for(lambda: prometheus.value("gloss_serving") == 1)
            seen = Watched(server, prometheus)
            load = MixedLoad(server, rows)
            load.good()
            busy = 'sum(gloss_waiting{priority="interactive"}) > 0 and sum(gloss_in_flight) > 0'
            load.bad(lambda: prometheus.wait_for(lambda: prometheus.query(busy)))
            prometheus.wait_for(lambda: prometheus.value("sum(gloss_cancelled_calls_total)") > 0)
            seen.fired_when_healthy = prometheus.firing()
            os.kill(server.engine_pid, signal.SIGKILL)
            prometheus.wait_for(lambda: prometheus.value("gloss_engine_restarts_total") == 1, 60)
            load.good()
            last = 'sum(gloss_calls_total{method="GetModelInfo"})'
            prometheus.wait_for(lambda: prometheus.value(last) == 2)
            prometheus.wait_for(lambda: prometheus.value("sum(gloss_in_flight)") == 0)
            prometheus.wait_for(lambda: prometheus.firing() >= IMMEDIATE)
            yield seen


def test_every_panel_shows_something(watched: Watched) -> None:
    empty, hollow = [], []
    for title, expression in expressions():
        samples = watched.prometheus.query(expression)
        if not samples:
            empty.append((title, expression))
        elif not any(math.isfinite(float(sample["value"][1])) for sample in samples):
            hollow.append((title, expression))
    assert not empty and not hollow, (empty, hollow)


def test_every_rule_works_and_every_record_has_values(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) > 60
    assert not [rule["name"] for rule in rules if rule.get("lastError")]
    assert {rule["health"] for rule in rules} == {"ok"}
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert not [name for name in recorded if not watched.prometheus.query(name)]
    objectives = watched.prometheus.query("job:gloss_objective_burn:rate5m")
    assert {sample["metric"]["objective"] for sample in objectives} == {
        *("unary_call", "first_token", "queue", "watch_lag", "refusal", "availability")
    }


def test_alerts_fire_when_they_should_alone(watched: Watched) -> None:
    assert watched.fired_when_healthy == set()
    assert watched.prometheus.firing() == IMMEDIATE
    alerts = [rule for rule in watched.prometheus.rules() if rule["type"] == "alerting"]
    # An alert's template is expanded when it fires; what cannot be stands in the text.
    for alert in (each for rule in alerts for each in rule["alerts"]):
        assert "error" not in str(alert["annotations"]) and "<no value>" not in str(alert)


def test_what_happened_is_what_the_metrics_say(watched: Watched) -> None:
    value = watched.prometheus.value
    for reason in ("QUEUE_FULL", "RATE_LIMITED", "DEADLINE_UNREACHABLE"):
        assert value(f'gloss_rejected_calls_total{{reason="{reason}"}}') == 1
    assert value("gloss_refusal_seconds_count") == 3
    assert value("sum(gloss_expired_calls_total)") == value("sum(gloss_cancelled_calls_total)") == 1
    assert value("gloss_engine_restarts_total") == value("gloss_engine_deaths_total") == 1
    for reason in ("ZERO_VECTOR", "NON_FINITE_VECTOR"):
        assert value(f'gloss_item_errors_total{{reason="{reason}"}}') == 1
    assert value("gloss_unclosed_explanations_total") >= 2
    requested = value("gloss_requested_tokens_total")
    assert 0 < value("gloss_generated_tokens_total") < requested
    # The engine holds the weights and torch, the front neither.
    engine = value("gloss_engine_process_resident_memory_bytes")
    assert engine > value("process_resident_memory_bytes") > 10 * 2**20
    for name in ("gloss_running", "sum(gloss_waiting)", "sum(gloss_in_flight)"):
        assert value(f"max_over_time(({name})[5m:500ms])") > 0 and value(name) == 0


def test_names_agree_with_what_the_server_exposes(watched: Watched) -> None:
    """Whatever deploy/ names is there, and whatever is there is used, or left out on purpose."""
    exposed = {name for name in watched.exposed() if name != "process_created"}
    parts = {f"{name}{end}" for name in exposed for end in ("_bucket", "_sum", "_count")}
    files = [file for file in DEPLOY.rglob("*") if file.suffix in (".yml", ".yaml", ".json")]
    named = set().union(*(metrics_in(file.read_text()) for file in files))
    # What Prometheus' adapter makes of ours for the autoscaler.
    adapter = (DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text()
    made = set(re.findall(r"name: \{as: (\w+)\}", adapter))
    assert not named - exposed - parts - made, "deploy/ names what no server exposes"
    used = {name for name in exposed if {name, f"{name}_bucket", f"{name}_count"} & named}
    assert exposed - used == UNUSED


def test_the_dashboard_is_what_its_panels_say() -> None:
    made = runpy.run_path(str(DEPLOY / "grafana" / "make_dashboard.py"))["text"]()
    assert made == FILE.read_text(), "run python deploy/grafana/make_dashboard.py"


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    shown = dashboard()
    assert shown["uid"] == "gloss-service" and shown["title"] and shown["schemaVersion"] == 39
    variables = {variable["name"]: variable["type"] for variable in shown["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "window"]
    assert variables["datasource"] == "datasource"
    numbers = [panel["id"] for panel in shown["panels"]]
    assert len(set(numbers)) == len(numbers) > 50
    kinds = {"row", "timeseries", "heatmap", "stat", "bargauge", "table"}
    assert {panel["type"] for panel in shown["panels"]} == kinds
    assert [panel["title"] for panel in shown["panels"] if panel["type"] == "row"] == [
        *("Objectives", "Latency", "Queue", "Batch, steps and pages", "Throughput", "Fidelity"),
        *("Target", "Errors", "Engine"),
    ]
    for panel in panels():
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)), panel["title"]
        if panel["type"] == "heatmap":
            assert [target["format"] for target in panel["targets"]] == ["heatmap"]


def test_panels_lie_beside_each_other() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_grafana_is_provisioned_with_it() -> None:
    root = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((root / "datasources" / "prometheus.yaml").read_text())
    (source,) = sources["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((root / "dashboards" / "gloss.yaml").read_text())["providers"]
    assert provider["type"] == "file" and Path(provider["options"]["path"]).is_absolute()
