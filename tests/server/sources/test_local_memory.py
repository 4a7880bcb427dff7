"""A text that the device's memory does not suffice for, in a command that runs its own engine."""

from __future__ import annotations

from pathlib import Path

from gloss_engine import EngineConfig, ExplainRequest, SamplingParams, TextInput, load_engine
from gloss_server.sources.local_texts import EngineTexts
from gloss_server.sources.text_source import TextEnded, TextFailed
from support.checkpoints import Pair
from support.tight_engine import MARK, refuse_marked


def test_the_text_fails_and_the_others_go_on(small_pair: Pair, targets: dict[str, Path]) -> None:
    config = EngineConfig(device="cpu", num_slots=2, target_generates=False)
    engine = load_engine(small_pair.av, None, config, target=targets["qwen2"])
    refuse_marked(engine)
    texts = EngineTexts(engine, 10)
    sampling = SamplingParams(max_new_tokens=2, seed=1)
    for row, ids in enumerate(((MARK, MARK, 20), (21, 22))):
        texts.submit(row, ExplainRequest(input=TextInput(token_ids=ids), sampling=sampling))
        ends = {}
        while row not in ends:
            for came in texts.advance():
                if isinstance(came.event, TextFailed | TextEnded):
                    ends[came.row] = came.event
        if row:
            assert isinstance(ends[row], TextEnded)
        else:
            assert isinstance(ends[row], TextFailed)
            assert (ends[row].error.code, ends[row].error.reason) == (
                "RESOURCE_EXHAUSTED", "OUT_OF_MEMORY",
            )  # fmt: skip
