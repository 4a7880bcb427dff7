"""docs/training.md says every setting and its default, and no other; every stage and command."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from gloss_training.cli import app
from gloss_training.run.config import setting_names, shipped_names
from gloss_training.stages.run import STAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def told() -> dict[str, str]:
    """Every setting that the page names, by its dotted name, with the default it states."""
    found: dict[str, str] = {}
    for part in PAGE.split("\n## Settings", 1)[1].split("\n### ")[1:]:
        heading, _, rest = part.partition("\n")
        sections = re.findall(r"`([a-z_.]+)`", heading)
        prefixes = [""] if sections == ["seed"] else [f"{section}." for section in sections]
        for line in rest.splitlines():
            match = re.match(r"\| `([a-z_0-9]+)` \| ([^|]*) \|", line)
            if match:
                assert not {f"{prefix}{match[1]}" for prefix in prefixes} & found.keys(), line
                found.update({f"{prefix}{match[1]}": match[2] for prefix in prefixes})
    return found


def test_every_setting_is_there_and_no_other() -> None:
    assert told().keys() == setting_names().keys()


def test_defaults_are_what_the_page_says() -> None:
    known = setting_names()
    compared = 0
    for name, text in told().items():
        if not re.match(r'[0-9"\[]|true|false', text):
            continue
        stated = tomllib.loads(f"value = {text}")["value"]
        default = list(known[name]) if isinstance(known[name], tuple) else known[name]
        assert json.dumps(stated) == json.dumps(default), name
        compared += 1
    assert compared > len(known) - 12


def test_every_stage_command_and_configuration_is_named() -> None:
    for stage in STAGES:
        assert f"| `{stage}` |" in PAGE
    for name in shipped_names():
        assert f"`{name}`" in PAGE
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands == set(re.findall(r"gloss-train ([a-z]+)", PAGE))
