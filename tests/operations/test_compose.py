"""deploy/compose.yaml: its schema, and that what it names exists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gloss_server.settings import ServeSettings
from support.dockerfile import Dockerfile
from support.image import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = ("compose.yaml", "compose.gpu.yaml")
DOCKERFILE = Dockerfile(REPOSITORY / "Dockerfile")


def _services(name: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / name).read_text())["services"]
    return services


@pytest.mark.parametrize("name", FILES)
def test_schema(name: str) -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    arguments = ["--builtin-schema", "vendor.compose-spec", DEPLOY / name]
    ended = subprocess.run([check, *arguments], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_service_can_do_little() -> None:
    for name, service in _services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        _, _, tag = service["image"].rpartition(":")
        assert tag and tag != "latest", name


def test_every_service_has_a_health_check() -> None:
    for name, service in _services().items():
        target = service.get("build", {}).get("target")
        assert "healthcheck" in service or DOCKERFILE.command(target, "HEALTHCHECK"), name


@pytest.mark.parametrize("name", FILES)
def test_what_is_named_exists(name: str) -> None:
    for service in _services(name).values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert volume.endswith(":ro")
        build = service.get("build", {})
        if "target" in build:
            assert build["target"] in DOCKERFILE.stages
            assert service["image"] == f"gloss:{build['target']}"
            arguments = DOCKERFILE.environment("packages")
            assert build.get("args", {}).keys() <= arguments.keys()
        for variable in service.get("environment", {}):
            if variable.startswith("GLOSS_"):
                assert variable.removeprefix("GLOSS_").lower() in ServeSettings.model_fields


def test_kernels_can_be_loaded_from_where_they_are_compiled() -> None:
    """Docker mounts a tmpfs with noexec unless it is told otherwise."""
    (tmpfs,) = _services()["gloss"]["tmpfs"]
    path, _, options = tmpfs.partition(":")
    assert "exec" in options.split(",")
    caches = DOCKERFILE.environment("cuda")
    assert caches["TRITON_CACHE_DIR"].startswith(f"{path}/")


def test_the_parts_find_each_other() -> None:
    services = _services()
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    ((target,),) = [one["targets"] for one in prometheus["scrape_configs"][0]["static_configs"]]
    host, _, port = target.partition(":")
    assert host in services
    assert DOCKERFILE.environment("cpu")["GLOSS_METRICS_ADDRESS"].endswith(f":{port}")
    mounted = dict(v.split(":")[:2] for v in services["prometheus"]["volumes"])
    assert mounted["./prometheus/rules"] == "/etc/prometheus/rules"
    assert prometheus["rule_files"] == ["rules/*.yml"]
    datasources = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (datasource,) = yaml.safe_load(datasources.read_text())["datasources"]
    assert datasource["url"] == "http://prometheus:9090"
    provider = DEPLOY / "grafana" / "provisioning" / "dashboards" / "gloss.yaml"
    (dashboards,) = yaml.safe_load(provider.read_text())["providers"]
    mounted = dict(v.split(":")[:2] for v in services["grafana"]["volumes"])
    assert mounted["./grafana/dashboards"] == dashboards["options"]["path"]


def test_it_has_time_to_drain_and_no_password_of_its_own() -> None:
    services = _services()
    defaults = ServeSettings()
    seconds = float(services["gloss"]["stop_grace_period"].removesuffix("s"))
    assert seconds > defaults.drain_seconds + defaults.grace_seconds + 5
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert password.startswith("${GRAFANA_PASSWORD:?")
