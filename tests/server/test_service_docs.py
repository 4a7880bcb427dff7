"""docs/service.md says every setting and its default, and every metric, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from gloss_engine.memory_plan import MEMORY_FRACTION
from gloss_server.front.call_log import EVENTS, CallRecord
from gloss_server.front.metrics import Metrics
from gloss_server.settings import ServeSettings

PAGE = Path(__file__).parents[2] / "docs" / "service.md"


def _rows() -> dict[str, str]:
    section = PAGE.read_text().split("## Settings", 1)[1].split("\n## ", 1)[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`([a-z_]+)`", cells[0]) if line.startswith("| `") else []:
            rows[name] = cells[1]
    return rows


def test_every_setting_is_there() -> None:
    assert _rows().keys() == ServeSettings.model_fields.keys()


def test_numbers_are_the_defaults() -> None:
    settings, rows = ServeSettings(), _rows()
    for name, default in rows.items():
        if re.fullmatch(r"[0-9]+", default):
            assert getattr(settings, name) in (int(default), None), name
    assert (settings.max_items, settings.max_samples) == (1024, 64)
    assert (settings.restart_limit, settings.restart_window_seconds) == (5, 60)
    assert (settings.result_memory_seconds, settings.result_memory_bytes) == (60, 64 << 20)
    assert settings.max_request_bytes == 32 << 20
    assert (settings.memory_fraction, rows["memory_fraction"]) == (None, str(MEMORY_FRACTION))


def test_every_field_and_event_of_the_log_is_there() -> None:
    section = PAGE.read_text().split("**The log** is", 1)[1]
    fields, events = [], {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([a-z_]+)`", cells[0]) if line.startswith("| `") else []
        if len(cells) == 2:
            fields += names
        elif len(cells) == 3:
            events |= dict.fromkeys(names, cells[1])
    assert fields == [field.name for field in dataclasses.fields(CallRecord)]
    assert events == EVENTS


def test_every_metric_is_there_as_the_registry_has_it() -> None:
    metrics = Metrics()
    metrics.read_lines_lost(int)
    section = PAGE.read_text().split("## Watching it", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `gloss_")]
    told = {line.split("`")[1]: line for line in lines}
    expected = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({key for sample in family.samples for key in sample.labels} - {"le"})
        shown = ", ".join(f"`{label}`" for label in labels)
        text = family.documentation.rstrip(".")
        expected[name] = f"| `{name}` | {family.type} | {shown} | {text} |"
    assert told == {name: row for name, row in expected.items() if name.startswith("gloss_")}
    assert len(told) == len(lines) > 45
