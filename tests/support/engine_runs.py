"""Driving an engine in tests: loading a small one, requests in waves, all results by key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloss_engine.config import EngineConfig
from gloss_engine.engine import Engine
from gloss_engine.loading import load_engine
from gloss_engine.request import Explanation, VerbalizeRequest
from gloss_engine.sampling import SamplingParams

Key = tuple[str, int, int]


def small_engine(av: Path, ar: Path | None = None, **settings: Any) -> Engine:
    """An engine on the CPU in float32."""
    settings = {"device": "cpu", "dtype": "float32", "num_slots": 8} | settings
    return load_engine(av, ar, EngineConfig(**settings))


def activations(n: int, d_model: int, seed: int = 0) -> Tensor:
    """[n, d_model] raw vectors of different norms."""
    generator = torch.Generator().manual_seed(seed)
    norms = torch.rand(n, 1, generator=generator) * 5 + 0.5
    return torch.randn(n, d_model, generator=generator) * norms


def request(
    rows: Tensor, *, num_samples: int = 1, options: Mapping[str, Any] | None = None, **sampling: Any
) -> VerbalizeRequest:
    """A request with the sampling settings as keywords; `options` are the request's own."""
    return VerbalizeRequest(
        activations=rows,
        num_samples=num_samples,
        sampling=SamplingParams(**sampling),
        **(options or {}),
    )


def drain(engine: Engine, limit: int = 5000) -> dict[Key, Explanation]:
    """Step until nothing is in flight; every explanation by (request, index, sample)."""
    results: dict[Key, Explanation] = {}
    for _ in range(limit):
        if not engine.has_work:
            return results
        for explanation in engine.step().explanations:
            key = (explanation.request_id, explanation.index, explanation.sample)
            assert key not in results, f"{key} came out twice"
            results[key] = explanation
    raise AssertionError(f"still busy after {limit} steps")


def run_in_waves(
    engine: Engine, waves: Mapping[int, Mapping[str, VerbalizeRequest]]
) -> dict[Key, Explanation]:
    """Submit requests by name before the steps that `waves` names; run everything to its end."""
    results: dict[Key, Explanation] = {}
    for step in range(max(waves) + 1):
        for name, submitted in waves.get(step, {}).items():
            engine.submit(submitted, name)
        for explanation in engine.step().explanations:
            results[explanation.request_id, explanation.index, explanation.sample] = explanation
    return results | drain(engine)


def assert_idle(engine: Engine) -> None:
    """Nothing is left behind: no page, slot, item, step, text or place for an activation."""
    stats = engine.stats()
    assert not engine.has_work
    assert (stats.pages_used, stats.num_running, stats.num_waiting, stats.num_to_score) == (0,) * 4
    scheduler, slots = engine.scheduler, engine.runner.slots
    assert engine.runner.prefill_buffer.num_reserved == 0
    assert sorted(scheduler._free_slots) == list(range(scheduler.num_slots))
    # The next step that runs forgets these first.
    assert set(slots._parts_of) <= set(scheduler._idle)
