"""deploy/prometheus: promtool takes it, alerts are complete, objectives agree with themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.prometheus_process import CONFIG, DEPLOY
from support.tools import program

PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))


def promtool(*arguments: object) -> None:
    ended = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules of a kind, record or alert."""
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def test_configurations_and_rules_are_taken(tmp_path: Path) -> None:
    promtool("check", "rules", "--lint-fatal", *RULES)
    promtool("check", "config", CONFIG)
    # Debian's Prometheus is built without Kubernetes' discovery; all else of its file is checked.
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    config["rule_files"] = [str(PROMETHEUS / "rules" / "*.yml")]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    promtool("check", "config", file)


@pytest.mark.parametrize("file", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda f: f.stem)
def test_rules_do_what_their_tests_say(file: Path) -> None:
    promtool("test", "rules", file)


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    tested = (PROMETHEUS / "tests" / "alerts_test.yml").read_text()
    alerts = rules("alert")
    assert len({alert["alert"] for alert in alerts}) == len(alerts) >= 15
    for alert in alerts:
        name = alert["alert"]
        assert re.fullmatch(r"Gloss[A-Z][A-Za-z]+", name)
        assert alert["labels"] == {"severity": alert["labels"]["severity"]}
        assert alert["labels"]["severity"] in ("page", "ticket"), name
        said = alert["annotations"]
        assert said.keys() == {"summary", "description", "runbook_url"}, name
        assert said["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert said["description"].endswith(".") and not said["summary"].endswith(".")
        assert f'alertname="{name}"' in tested or f"alertname: {name}" in tested, name


def test_objectives_agree_with_themselves() -> None:
    """Each has good events, events, a target and, where it is a duration, its bound in seconds."""
    found: dict[str, dict[str, str]] = {}
    for rule in rules("record"):
        if objective := rule.get("labels", {}).get("objective"):
            found.setdefault(objective, {})[rule["record"]] = rule["expr"]
    latencies = {"unary_call": 2, "first_token": 0.25, "queue": 0.1, "watch_lag": 1}
    assert found.keys() == {*latencies, "refusal", "availability"}
    for objective, said in found.items():
        good = said["instance:gloss_objective_good:total"]
        events = said["instance:gloss_objective_events:total"]
        target = float(said["gloss:objective:target"].removeprefix("vector(")[:-1])
        assert 0.5 < target < 1
        if objective == "availability":
            continue
        seconds = float(said["gloss:objective:seconds"].removeprefix("vector(")[:-1])
        bound = re.search(r', le="([0-9.]+)"|\{le="([0-9.]+)"', good)
        assert bound is not None and float(bound[1] or bound[2]) == seconds
        assert latencies.get(objective, 0.05) == seconds
        without = re.sub(r'(, )?le="[0-9.]+"', "", good).replace("{}", "")
        assert without.replace("_bucket", "_count") == events
