"""Runs the engine's steps for a GPU that is not there, and says which kernels they compile.

    python -m support.device_step none|fp8      # one JSON object to stdout

Weights, pages and state are tensors of the meta device: shapes without memory. Reading a value of
one raises, so whatever a step would ask the device for on the host fails here; every kernel a step
would launch is compiled for sm_90 (see `support.aot`). The shape is Qwen2.5-7B's, one block deep.
A process of its own, because the interpreter must be off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config

from gloss_engine.config import EngineConfig
from gloss_engine.loading import machinery
from gloss_engine.models.batch import Prefix
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.registry import spec_from_config
from gloss_engine.program import AvProgram
from gloss_engine.runner import ModelRunner
from gloss_engine.sampling import SamplingParams
from gloss_engine.scheduler import Scheduler
from gloss_engine.sequence import Item
from gloss_engine.step import Step
from gloss_engine.step_shape import StepShape
from gloss_kernels import Operations
from support.aot import recorded

META = torch.device("meta")
PREFIX_LEN, SUFFIX_LEN, NUM_SLOTS = 100, 25, 160


class NoCopies(TorchDispatchMode):
    """Refuses operations between host and device tensors: on a GPU each would wait for it.

    A copy from pageable memory, which is what a CPU scalar in `torch.where` becomes, cannot even be
    captured.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) <= 1, f"{func} mixes {devices}"
        return out


def _checked(step: Step) -> Callable[[StepShape], None]:
    """The step's run, under the eyes of `NoCopies`, which inference mode would shut half."""
    plain = Step.run.__wrapped__  # type: ignore[attr-defined]

    def run(shape: StepShape, first: int = 0) -> None:
        with torch.inference_mode(False), torch.no_grad(), NoCopies():
            plain(step, shape, first)

    return run


def _machinery(quantization: str) -> tuple[ModelRunner, Scheduler]:
    config = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=1,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    )
    spec = spec_from_config(config)
    decoder = Decoder(
        spec,
        max_positions=400,
        operations=Operations("triton"),
        device=META,
        dtype=torch.bfloat16,
        quantization=quantization,
    )
    decoder.pack()
    shared = torch.empty(1, 4, PREFIX_LEN, 128, dtype=torch.bfloat16, device=META)
    vocab = torch.zeros(152064, dtype=torch.bool, device=META)
    program = AvProgram(
        suffix_ids=torch.zeros(SUFFIX_LEN, dtype=torch.int64, device=META),
        prefix=Prefix(keys=shared, values=shared),
        injection_scale=150.0,
        injection_mode="replace",
        stop_table=vocab.to(torch.uint8).expand(15, -1).contiguous(),
        is_eos=vocab,
    )
    settings = EngineConfig(
        device="cpu", graphs="on", lag=1, num_slots=NUM_SLOTS, page_size=16, max_new_tokens=120
    )
    return machinery(decoder, program, settings)


def _items(count: int, num_samples: int, **sampling: Any) -> list[Item]:
    return [
        Item(
            request_id="r",
            index=index,
            item_key=index,
            seed=2**64 - 1,
            sampling=SamplingParams(**sampling),
            num_samples=num_samples,
            activation=torch.ones(3584),
        )
        for index in range(count)
    ]


def _serve(runner: ModelRunner, scheduler: Scheduler) -> int:
    """Steps of all kinds: many starts and few, samples, filters, departures, moves."""
    loads = [
        (0, _items(150, 1, max_new_tokens=9)),
        (3, _items(7, 3, max_new_tokens=30, top_p=0.9, repetition_penalty=1.1)),
        (12, _items(1, 1, max_new_tokens=2, temperature=0.0)),
        (20, _items(37, 1, max_new_tokens=120)),
        (30, _items(60, 2, max_new_tokens=5)),
    ]
    steps = 0
    while scheduler.has_work or steps < 40:
        for at, items in loads:
            if at == steps:
                for item in items:
                    scheduler.add(item)
        plan = scheduler.schedule()
        if plan.has_work:
            runner.launch(plan)
        if steps == 25:
            scheduler.retire(list(scheduler.running.values())[::3])
        steps += 1
    return steps


def main(quantization: str) -> None:
    """Warm up, then serve; print what each compiled."""
    with recorded() as compiled:
        runner, scheduler = _machinery(quantization)
        step: Any = runner.step
        step.run = _checked(step)
        runner.warm_up()
        first = {kernel.hash: kernel.metadata.name for kernel in compiled}
        launches = len(compiled)
        steps = _serve(runner, scheduler)
        later = {k.hash: k.metadata.name for k in compiled if k.hash not in first}
    found = {
        "shapes": len(list(runner.sizes.shapes())),
        "kernels": sorted(first.values()),
        "later": sorted(later.values()),
        "steps": steps,
        "launched": len(compiled) - launches,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
