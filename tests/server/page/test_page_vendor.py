"""What the page ships: files of others as the manifest has them; all fit for its policy."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "server" / "gloss_server" / "page" / "static"
VENDOR = STATIC / "vendor"
MANIFEST = VENDOR / "manifest.json"
LIBRARIES = json.loads(MANIFEST.read_text())


def test_files_are_those_of_the_manifest() -> None:
    stated = {name: digest for each in LIBRARIES.values() for name, digest in each["files"].items()}
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path != MANIFEST
    }
    assert found == stated


def test_each_states_version_licence_and_source() -> None:
    for name, library in LIBRARIES.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", library["version"])
        assert library["licence"] == "MIT" and library["source"] == f"npm package {name}"
        assert library["integrity"].startswith("sha512-")
        assert "MIT License" in (VENDOR / name / "LICENSE").read_text()


def test_scripts_need_nothing_that_the_policy_forbids() -> None:
    # Trusted types refuse strings that become markup or code; CSP all of another origin.
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function\("
    scripts = list(STATIC.rglob("*.js"))
    assert scripts
    for path in scripts:
        text = path.read_text()
        assert not re.findall(forbidden, text), path
        assert not re.findall(r"(?:from|import\()\s*['\"](?:https?:)?//", text), path
    for path in STATIC.rglob("*.css"):
        text = path.read_text()
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", text), path


def test_what_files_name_is_there() -> None:
    for path in STATIC.rglob("*.js"):
        for name in re.findall(r"(?:from|import\()\s*\"(\.[^\"]+)\"", path.read_text()):
            assert (path.parent / name).is_file(), f"{path.relative_to(STATIC)}: {name}"
    named = re.findall(r"(?:href|src)=\"/static/([^\"]+)\"", (STATIC / "index.html").read_text())
    assert len(named) > 5
    assert [name for name in named if not (STATIC / name).is_file()] == []
