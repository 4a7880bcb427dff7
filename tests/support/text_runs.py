"""Driving text requests of an engine in tests: everything a request brought, by what it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gloss_engine.config import EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.loading import load_engine
from gloss_engine.request import Explanation
from gloss_engine.text_request import (
    CapturedToken,
    OpenedText,
    Reading,
    SkippedToken,
    TargetEnd,
    TargetToken,
    TextInput,
)


def text_engine(av: Path, target: Path, ar: Path | None = None, **settings: Any) -> Engine:
    """An engine with a target, on the CPU in float32."""
    settings = {"device": "cpu", "dtype": "float32", "num_slots": 8} | settings
    return load_engine(av, ar, EngineConfig(**settings), target=target)


def ids(*token_ids: int) -> TextInput:
    """Tokens as a text."""
    return TextInput(token_ids=token_ids)


@dataclass
class Brought:
    """What came of one request."""

    opened: list[OpenedText] = field(default_factory=list)
    captured: list[CapturedToken] = field(default_factory=list)
    tokens: list[TargetToken] = field(default_factory=list)
    ends: list[TargetEnd] = field(default_factory=list)
    skipped: list[SkippedToken] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    deltas: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    explanations: dict[tuple[int, int], Explanation] = field(default_factory=dict)
    num_finished: int = 0


def step(engine: Engine, found: dict[str, Brought]) -> None:
    """One step; what it brought is added to its requests'."""
    out = engine.step()

    def of(request_id: str) -> Brought:
        return found.setdefault(request_id, Brought())

    for opened in out.opened:
        of(opened.request_id).opened.append(opened)
    for captured in out.captured:
        assert captured.index == len(of(captured.request_id).captured)
        of(captured.request_id).captured.append(captured)
    for token in out.target_tokens:
        of(token.request_id).tokens.append(token)
    for end in out.target_ends:
        of(end.request_id).ends.append(end)
    for skipped in out.skipped:
        of(skipped.request_id).skipped.append(skipped)
    for reading in out.readings:
        of(reading.request_id).readings.append(reading)
    for delta in out.tokens:
        key = (delta.index, delta.sample)
        of(delta.request_id).deltas.setdefault(key, []).append(delta.token_id)
    for explanation in out.explanations:
        result, key = of(explanation.request_id), (explanation.index, explanation.sample)
        assert key not in result.explanations, f"{key} came out twice"
        result.explanations[key] = explanation
    for request_id in out.finished:
        of(request_id).num_finished += 1


def run(engine: Engine, limit: int = 20_000) -> dict[str, Brought]:
    """Step until nothing is in flight; what each request brought."""
    found: dict[str, Brought] = {}
    for _ in range(limit):
        if not engine.has_work:
            return found
        step(engine, found)
    raise AssertionError(f"still busy after {limit} steps")


def assert_target_idle(engine: Engine) -> None:
    """The target holds nothing: no page, slot, place or text."""
    work = engine.target
    assert work is not None and not work.has_work
    stats = engine.stats()
    assert (stats.num_reading, stats.num_watching, stats.pages_used) == (0, 0, 0)
    assert engine.runner.prefill_buffer.num_reserved == 0
    generator = work.generator
    if generator is not None:
        assert generator.allocator.num_used == 0 and not generator.running
        assert sorted(generator._free_slots) == list(range(generator.slots.limits.num_slots))
