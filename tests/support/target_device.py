"""Runs the target's passes and steps for a GPU that is not there; see `device_step.py`.

    python -m support.target_device      # one JSON object to stdout

Qwen2.5-7B's shape, two blocks deep, read at the first. After the warm-up texts of all lengths are
read, alone and together, and prompts are gone on from; whatever asks the device for a value raises,
and every kernel that is compiled late is named.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Qwen2Config

from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.registry import spec_from_config
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.sampling import SamplingParams
from gloss_engine.slots import SlotLimits, Slots
from gloss_engine.step_shape import StepShape, StepSizes
from gloss_engine.target.generator import Generator
from gloss_engine.target.reader import TextReader, TextToRead
from gloss_engine.target.reading_queue import CAPTURE, EXPLAIN, Job
from gloss_engine.target.step import TargetStep
from gloss_engine.target.watch import Watch
from gloss_engine.target.work import LaunchedPass, TargetWork
from gloss_engine.text_request import TextInput, WatchRequest
from gloss_kernels import Operations
from support.aot import recorded
from support.device_step import META, NoCopies

LENGTHS = (1, 2, 3, 15, 16, 17, 31, 64, 100, 127, 128, 500, 511, 512, 513, 700, 1024, 1025, 1500)
MAX_READ, NUM_WATCHES, MAX_WATCH = 512, 4, 40


def _work() -> TargetWork:
    spec = spec_from_config(
        Qwen2Config(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=2,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
        )
    )
    decoder = Decoder(
        spec,
        max_positions=2000,
        operations=Operations("triton"),
        device=META,
        dtype=torch.bfloat16,
    )
    decoder.pack()
    target: Any = SimpleNamespace(
        spec=spec, decoder=decoder, layer_index=0, eos_ids=frozenset({7}), max_text_tokens=1500
    )
    program: Any = SimpleNamespace(injection_mode="replace", injection_scale=150.0)
    buffer = PrefillBuffer(decoder, program, max_prefills=8, num_places=64)
    longest = 1500 + MAX_WATCH
    limits = SlotLimits(
        num_slots=NUM_WATCHES,
        max_new_tokens=MAX_WATCH + 1,
        max_pages=-(-longest // 16),
        vocab_size=spec.vocab_size,
    )
    num_pages = 1 + NUM_WATCHES * limits.max_pages
    cache = allocate_pool(spec, num_pages, 16, META, torch.bfloat16)
    slots = Slots(limits, decoder.operations, META)
    step: Any = TargetStep(target, cache, slots, buffer)
    plain = TargetStep.run.__wrapped__  # type: ignore[attr-defined]

    def run(shape: StepShape, first: int = 0) -> None:
        with torch.inference_mode(False), torch.no_grad(), NoCopies():
            plain(step, shape, first)

    step.run = run
    allocator = BlockAllocator(num_pages, 16)
    sizes = StepSizes.listed(NUM_WATCHES, 0, longest)
    generator = Generator(step, cache, allocator, sizes, buffer)
    return TargetWork(target, TextReader(target, MAX_READ, buffer), generator)


def _jobs(index: int, length: int) -> Job:
    return Job(
        request_id=f"r{index}",
        kind=CAPTURE if index % 2 else EXPLAIN,
        text=TextToRead(token_ids=(5,) * length, positions=tuple(range(0, length, 1 + index % 3))),
        layer_index=index % 2,
        priority="batch" if index % 2 else "interactive",
    )


def _watch(index: int) -> Watch:
    options: dict[str, Any] = {"top_p": 0.9, "repetition_penalty": 1.1} if index % 2 else {}
    request = WatchRequest(
        input=TextInput(token_ids=(5,)),
        target_sampling=SamplingParams(max_new_tokens=MAX_WATCH, **options),
        every=1 + index % 2,
    )
    return Watch(
        request_id=f"w{index}",
        request=request,
        prompt_ids=(5,) * (1, 2, 30, 600, 1025, 90)[index],
        prompt_positions=frozenset({0}),
        max_pending=8,
        max_new_tokens=3 + index * 5,
        seed=2**64 - 1,
        num_unfinished=lambda: 0,
    )


def _serve(work: TargetWork) -> int:
    """Passes and steps of all kinds; what would be read on the host is dropped unread."""
    for index, length in enumerate((*LENGTHS, *reversed(LENGTHS))):
        work.add_text(_jobs(index, length))
    generator = work.generator
    assert generator is not None
    for index in range(6):
        work.add_watch(_watch(index))
    launched = 0
    while work.can_run(0.0):
        done = work.launch(0.0)
        launched += 1
        if isinstance(done.work, LaunchedPass):
            work.reader.release([p for job in done.work.jobs for p in job.text.places])
            continue
        for row in done.work.rows:
            work.reader.release([row.place])
            row.watch.num_in_flight = 0
            if row.watch.is_launched:
                generator.retire(row.watch)
    return launched


def main() -> None:
    """Warm up, then serve; print what each compiled."""
    with recorded() as compiled:
        work = _work()
        work.reader.warm_up()
        work.warm_up()
        first = {kernel.hash: kernel.metadata.name for kernel in compiled}
        launches = _serve(work)
        later = {k.hash: k.metadata.name for k in compiled if k.hash not in first}
    found = {
        "kernels": sorted(first.values()),
        "later": sorted(later.values()),
        "launched": launches,
        "pages": work.generator.allocator.num_used if work.generator else -1,
        "places": work.reader.buffer.num_reserved if work.reader.buffer else -1,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
