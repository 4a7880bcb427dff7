"""A GPU whose memory is full, for real: what fails by injection elsewhere (test_out_of_memory.py).

Only on a GPU, and not run yet: none was at hand.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gloss_engine.engine import Engine
from gloss_engine.text_request import CaptureRequest
from support.backends import ON_GPU
from support.checkpoints import Pair, write_target
from support.engine_runs import activations, assert_idle, drain, request
from support.text_runs import ids, run, text_engine

pytestmark = pytest.mark.skipif(not ON_GPU, reason="it fills a GPU's memory")
NUM_ITEMS, NUM_TEXTS, TEXT_LENGTH = 192, 40, 48


def _fill() -> list[Tensor]:
    """Take the device's memory, down to less than the smallest block for large tensors."""
    torch.cuda.empty_cache()
    taken, size = list[Tensor](), torch.cuda.mem_get_info()[0]
    while size >= 1 << 20:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    return taken


@pytest.fixture(scope="module")
def engine(pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """With an AR and a target, warmed up; small, so that its parts fit into what is left."""
    target = write_target(tmp_path_factory.mktemp("full") / "target", "qwen2", seed=7)
    engine = text_engine(
        pairs["qwen2"].av, target, pairs["qwen2"].ar, device="cuda", num_slots=NUM_ITEMS,
        max_prefill_tokens=1 << 14, max_new_tokens=8, fve_baseline=0.9,
    )  # fmt: skip
    engine.warm_up()
    return engine


def test_explanations_come_on_a_full_device(engine: Engine) -> None:
    """Many suffixes at once have no graph and do not fit; one by one they do, and so do texts."""
    sent = request(activations(NUM_ITEMS, engine.facts.d_model), seed=1, max_new_tokens=8)
    expected = engine.verbalize(sent)
    before = engine.stats().out_of_memory
    taken = _fill()
    engine.submit(sent, "r")
    found = drain(engine)
    assert engine.stats().out_of_memory > before, "the device was not full"
    del taken
    errors = [e.error.reason for e in found.values() if e.error is not None]
    assert set(errors) <= {"OUT_OF_MEMORY"} and len(errors) < NUM_ITEMS
    same = [
        want.token_ids == found["r", want.index, 0].token_ids
        for want in expected
        if found["r", want.index, 0].error is None
    ]
    # Products of other shapes round apart; a decision falls between two in a few.
    assert sum(same) >= 0.9 * len(same)
    assert_idle(engine)


def test_texts_are_read_on_a_full_device(engine: Engine) -> None:
    texts = tuple(ids(*range(20 + n, 20 + n + TEXT_LENGTH)) for n in range(NUM_TEXTS))
    engine.submit_capture(CaptureRequest(inputs=texts), "c")
    expected = run(engine)["c"].readings
    before = engine.stats().out_of_memory
    taken = _fill()
    engine.submit_capture(CaptureRequest(inputs=texts), "c")
    found = run(engine)["c"].readings
    assert engine.stats().out_of_memory > before, "the device was not full"
    del taken
    assert len(found) == len(expected) == NUM_TEXTS
    for reading in found:
        assert reading.error is None or reading.error.reason == "OUT_OF_MEMORY"
    # With room again all goes as before.
    engine.submit_capture(CaptureRequest(inputs=texts), "c")
    assert all(reading.error is None for reading in run(engine)["c"].readings)
