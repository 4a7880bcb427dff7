"""What `kubectl apply -k` makes of a directory: the part of kustomize that deploy/kubernetes uses.

Anything else in a kustomization is refused, so that nothing is passed over in silence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
_KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components", "images", "labels"),
    *("patches", "configMapGenerator"),
}


def rendered(directory: Path) -> list[Manifest]:
    """The manifests of a kustomization."""
    return _applied(directory, [])


def _applied(directory: Path, manifests: list[Manifest]) -> list[Manifest]:
    said = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert said.keys() <= _KNOWN, said.keys() - _KNOWN
    for resource in said.get("resources", ()):
        path = directory / resource
        if path.is_dir():
            manifests += rendered(path)
        else:
            manifests += [one for one in yaml.safe_load_all(path.read_text()) if one]
    for component in said.get("components", ()):
        manifests = _applied(directory / component, manifests)
    for generator in said.get("configMapGenerator", ()):
        manifests.append(_config_map(directory, generator, manifests))
    for patch in said.get("patches", ()):
        found = [one for one in manifests if _is_target(one, patch["target"])]
        assert found, patch["target"]
        for manifest in found:
            _patch(manifest, yaml.safe_load(patch["patch"]))
    for manifest in manifests:
        if "namespace" in said:
            manifest["metadata"]["namespace"] = said["namespace"]
        for label in said.get("labels", ()):
            manifest["metadata"].setdefault("labels", {}).update(label["pairs"])
        for image in said.get("images", ()):
            for container in _pod(manifest).get("containers", ()):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return manifests


def _pod(manifest: Manifest) -> Manifest:
    pod: Manifest = manifest.get("spec", {}).get("template", {}).get("spec", {})
    return pod


def _is_target(manifest: Manifest, target: dict[str, str]) -> bool:
    return (manifest["kind"], manifest["metadata"]["name"]) == (target["kind"], target["name"])


def _config_map(directory: Path, generator: Manifest, manifests: list[Manifest]) -> Manifest:
    """A ConfigMap whose name follows its content, also where it is referred to."""
    data = {name: (directory / name).read_text() for name in generator["files"]}
    name = f"{generator['name']}-{hashlib.sha256(repr(data).encode()).hexdigest()[:10]}"
    for manifest in manifests:
        for volume in (
            manifest.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", ())
        ):
            if volume.get("configMap", {}).get("name") == generator["name"]:
                volume["configMap"]["name"] = name
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patch(manifest: Manifest, operations: list[Manifest]) -> None:
    """RFC 6902's add and replace."""
    for operation in operations:
        *path, last = operation["path"].removeprefix("/").split("/")
        place: Any = manifest
        for part in path:
            place = place[int(part) if isinstance(place, list) else part]
        if operation["op"] == "replace":
            assert last in place, operation["path"]
        else:
            assert operation["op"] == "add"
        if isinstance(place, list):
            assert last == "-"
            place.append(operation["value"])
        else:
            assert operation["op"] == "replace" or last not in place, operation["path"]
            place[last] = operation["value"]
