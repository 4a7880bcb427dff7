"""deploy/kubernetes: schemas of a pinned version, and numbers and names that have to agree."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client.core import Metric

from gloss_server.address import Address
from gloss_server.front.metrics import Metrics
from gloss_server.front.server import SERVICE
from gloss_server.settings import ServeSettings
from gloss_server.settings_sources import read_settings
from support.dockerfile import Dockerfile
from support.image import REPOSITORY
from support.kustomize import Manifest, rendered
from support.tools import program

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
VERSION = "1.31"
OVERLAYS = ("cpu", "gpu")
CLOSING_SECONDS = 5


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    """Of an overlay, by kind."""
    found = rendered(KUBERNETES / request.param)
    by_kind = {one["kind"]: one for one in found}
    assert len(by_kind) == len(found)
    return by_kind


@pytest.fixture
def pod(manifests: dict[str, Manifest]) -> Manifest:
    pod: Manifest = manifests["Deployment"]["spec"]["template"]["spec"]
    return pod


@pytest.fixture
def container(pod: Manifest) -> Manifest:
    (only,) = pod["containers"]
    return only


@pytest.fixture
def settings(
    manifests: dict[str, Manifest],
    container: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ServeSettings:
    """What a replica is told: by the image, the environment and the file."""
    file = tmp_path / "gloss.toml"
    file.write_text(manifests["ConfigMap"]["data"]["gloss.toml"])
    environment = Dockerfile(REPOSITORY / "Dockerfile").environment(_target(container))
    environment |= {one["name"]: one.get("value", "2") for one in container["env"]}
    for name, value in environment.items():
        if name.startswith("GLOSS_"):
            monkeypatch.setenv(name, value)
    return read_settings({}, file)


def _target(container: Manifest) -> str:
    image, _, target = container["image"].partition(":")
    assert image == "gloss"
    return str(target)


def test_schemas(manifests: dict[str, Manifest]) -> None:
    assert manifests.keys() == {
        *("ServiceAccount", "Deployment", "Service", "ConfigMap", "HorizontalPodAutoscaler"),
        *("PodDisruptionBudget", "NetworkPolicy"),
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        assert manifest["metadata"]["namespace"] == "gloss"


def test_a_misspelt_field_would_be_found(manifests: dict[str, Manifest], pod: Manifest) -> None:
    pod["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["Deployment"], VERSION, strict=True)


def test_ports_and_probes(
    manifests: dict[str, Manifest], container: Manifest, settings: ServeSettings
) -> None:
    assert settings.admin_address is not None
    listening = {
        name: Address.parse(address).port
        for name, address in (
            ("grpc", settings.address),
            ("admin", settings.admin_address),
            ("metrics", settings.metrics_address),
        )
    }
    assert {one["name"]: one["containerPort"] for one in container["ports"]} == listening
    for probe, service in (
        ("startupProbe", "liveness"),
        ("livenessProbe", "liveness"),
        ("readinessProbe", SERVICE),
    ):
        assert container[probe]["grpc"] == {"port": listening["admin"], "service": service}
    (port,) = manifests["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (listening["grpc"], "grpc")
    assert manifests["Service"]["spec"]["clusterIP"] == "None"
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(listening["metrics"])
    allowed = [one["ports"] for one in manifests["NetworkPolicy"]["spec"]["ingress"]]
    assert allowed == [[{"port": "grpc"}], [{"port": "metrics"}]]


def test_a_pod_has_time_to_drain(
    pod: Manifest, container: Manifest, settings: ServeSettings
) -> None:
    needed = settings.drain_seconds + settings.grace_seconds + CLOSING_SECONDS
    assert needed <= pod["terminationGracePeriodSeconds"]
    # Readiness is lost long before new calls are refused.
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] * 3 < settings.drain_seconds
    # An engine that hangs is killed by its own front, not its front by the kubelet.
    assert container["startupProbe"]["failureThreshold"] >= 60
    assert "preStop" not in container.get("lifecycle", {})


def test_selectors_find_the_pods(manifests: dict[str, Manifest]) -> None:
    deployment = manifests["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    for selector in (
        deployment["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "gloss")
    assert "replicas" not in deployment
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]


def test_a_pod_may_do_little(pod: Manifest, container: Manifest) -> None:
    user = Dockerfile(REPOSITORY / "Dockerfile").last(_target(container), "USER")
    security = pod["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert security["runAsNonRoot"] and security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    mounted = {one["name"]: one for one in container["volumeMounts"]}
    assert mounted.keys() == {one["name"] for one in pod["volumes"]}
    assert all(one.get("readOnly") or name == "tmp" for name, one in mounted.items())
    for volume in pod["volumes"]:
        assert volume.get("secret", {}).get("defaultMode", 0o440) == 0o440


def test_a_gpu_overlay_has_a_gpu_and_secrets() -> None:
    (deployment,) = [one for one in rendered(KUBERNETES / "gpu") if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == "1"
    environment = {one["name"]: one["value"] for one in container["env"]}
    paths = {one["mountPath"] for one in container["volumeMounts"]}
    files = {n: v for n, v in environment.items() if v.startswith("/")}
    assert files.keys() == {
        *("GLOSS_TLS_CERT", "GLOSS_TLS_KEY", "GLOSS_TOKENS", "GLOSS_AV", "GLOSS_AR")
    }
    assert all(str(Path(path).parent) in paths for path in files.values())


def test_what_the_autoscaler_asks_is_measured(
    manifests: dict[str, Manifest], tmp_path: Path
) -> None:
    """Its metrics are the adapter's, whose queries are PromQL of metrics that there are."""
    asked = [one["pods"]["metric"]["name"] for one in _metrics(manifests)]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    rules = {rule["name"]["as"]: rule for rule in adapter["rules"]["custom"]}
    assert sorted(asked) == sorted(rules)
    known = {family.name for family in _families()}
    records = []
    for name, rule in rules.items():
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "instance")
        query = query.replace("<<.LabelMatchers>>", 'namespace="gloss",instance=~"a|b"')
        assert "<<" not in query
        for series in (rule["seriesQuery"], *query.split("(")[1:]):
            metric = series.split("{")[0].strip()
            assert not metric.startswith("gloss_") or metric in known, metric
        overrides = rule["resources"]["overrides"]
        assert {o["resource"] for o in overrides.values()} == {"namespace", "pod"}
        assert all(f'{label}!=""' in rule["seriesQuery"] for label in overrides)
        records.append({"record": f"test:{name}", "expr": query})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": records}]}))
    ended = subprocess.run(
        [program("promtool"), "check", "rules", file], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _metrics(manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    return metrics


def _families() -> list[Metric]:
    return list(Metrics().registry.collect())
