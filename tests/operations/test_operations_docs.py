"""docs/operations.md: a section for every alert, and no name that nothing has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from gloss_server.front.call_log import EVENTS
from gloss_server.front.metrics import Metrics
from gloss_server.settings import ServeSettings
from support.image import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations.md").read_text()
RULES = sorted((REPOSITORY / "deploy" / "prometheus" / "rules").glob("*.yml"))
HEADINGS = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
QUOTED = set(re.findall(r"`([^`\n]+)`", PAGE))


def _rules(kind: str) -> list[dict[str, object]]:
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def test_every_alert_has_its_section_and_no_other_is_there() -> None:
    alerts = {str(rule["alert"]): rule for rule in _rules("alert")}
    assert {heading for heading in HEADINGS if heading.startswith("Gloss")} == alerts.keys()
    anchors = {_anchor(heading) for heading in HEADINGS}
    for name, rule in alerts.items():
        url = rule["annotations"]["runbook_url"]  # type: ignore[index]
        assert url == f"docs/operations.md#{_anchor(name)}" and _anchor(name) in anchors
        section = PAGE.split(f"### {name}\n\n", 1)[1]
        assert section.startswith(f"*{rule['labels']['severity']}.*"), name  # type: ignore[index]


def test_links_lead_somewhere() -> None:
    anchors = {_anchor(heading) for heading in HEADINGS}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, anchor = target.partition("#")
        assert not file or (REPOSITORY / "docs" / file).exists(), target
        assert file or anchor in anchors, target


def test_metrics_and_records_exist() -> None:
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("", "_bucket", "_count")}
    known = {f"{m.name}{s}" for m in Metrics().registry.collect() for s in suffixes[m.type]}
    known |= {str(rule["record"]) for rule in _rules("record")}
    packages = {"gloss_client", "gloss_server"}
    for name in QUOTED:
        if re.fullmatch(r"(gloss_|job:|gloss:|instance:)[\w:]+", name):
            assert name in known | packages, name


def test_settings_exist() -> None:
    """Whatever looks like one: a word with an underscore that is nothing else."""
    settings = ServeSettings.model_fields.keys()
    objectives = set(re.findall(r"objective: (\w+)", "".join(file.read_text() for file in RULES)))
    others = (
        EVENTS.keys()
        | objectives
        | {
            *("request_id", "text_tokens", "low_fidelity", "norm_outlier", "tokens_per_second"),
            "grpc_options",
            "request_bytes",
        }
    )
    for name in QUOTED:
        if re.fullmatch(r"[a-z]+(_[a-z]+)+", name) and not name.startswith("gloss_"):
            assert name in settings | others, name
    for name in re.findall(r"max_[a-z_]+|[a-z_]+_seconds|[a-z_]+_bytes", PAGE):
        plural = [setting for setting in settings if setting.startswith(name)]
        assert plural or name in others or name.startswith(("gloss_", "_")), name


def test_files_and_tests_exist() -> None:
    for name in QUOTED:
        if re.match(r"(deploy|benchmarks|tests)/\S+$", name):
            assert (REPOSITORY / name).exists(), name
    for file, function in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", PAGE):
        (path,) = (REPOSITORY / "tests").rglob(file)
        assert not function or f"def {function}(" in path.read_text(), function


def test_drills_find_the_processes_they_mean() -> None:
    """The commands of the table end the engine of the server they started, and no other's."""
    commands = re.findall(r"`(pkill [^`]+)`", PAGE)
    assert commands == ["pkill -KILL -P $!", "pkill -STOP -P $!"]
    assert "2> gloss.log &\n" in PAGE
    assert "the engine died 6 times within 60 s" in PAGE
    defaults = ServeSettings()
    assert (defaults.restart_limit + 1, defaults.restart_window_seconds) == (6, 60)


def test_kubernetes_version_is_the_tested_one() -> None:
    said = re.search(r"schemas of Kubernetes ([\d.]+);", PAGE)
    checked = Path(__file__).with_name("test_kubernetes.py").read_text()
    assert said and f'VERSION = "{said[1]}"' in checked
