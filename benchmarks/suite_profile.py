"""Where a decode step's time goes: the torch profiler over a few steps, as a table by kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from suite_engine import build, dtype_label
from suite_report import Row
from suite_shape import RandomPair
from torch.profiler import ProfilerActivity, profile

from gloss_engine import EngineConfig, SamplingParams, VerbalizeRequest

STEPS = 10
_SETTLE = 5
_ROWS = 40


def profile_steps(pair: RandomPair, config: EngineConfig, directory: Path) -> Iterator[Row]:
    """Profile decode steps of a full batch; writes a table and a trace into `directory`."""
    engine = build(pair, config).engine
    new_tokens = pair.shape.new_tokens
    engine.submit(
        VerbalizeRequest(
            activations=pair.activations(config.num_slots),
            sampling=SamplingParams(max_new_tokens=new_tokens, seed=1),
            score=False,
        )
    )
    steps = min(STEPS, new_tokens - _SETTLE - 1)
    for _ in range(_SETTLE):
        engine.step()
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            engine.step()
        if on_gpu:
            torch.cuda.synchronize()
    label = f"decode_{dtype_label(config)}_{config.num_slots}"
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    text = profiler.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=90)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{label}.txt").write_text(f"{steps} steps\n{text}\n")
    profiler.export_chrome_trace(str(directory / f"{label}.json.gz"))
    row = Row(figure="profile", batch=config.num_slots, dtype=dtype_label(config))
    yield Row(**{**row.__dict__, "value": float(steps), "unit": "steps", "note": f"{label}.txt"})
