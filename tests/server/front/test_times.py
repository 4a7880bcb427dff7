"""When a call's times are measured: as they happen, also of a call that is given up afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gloss_engine.request import VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.text_request import (
    CapturedToken,
    ExplainRequest,
    OpenedText,
    TextInput,
    TokenPlace,
    WatchRequest,
)
from gloss_server.front.call_log import CallLog
from gloss_server.front.text_run import TextRun
from support.checkpoints import Pair
from support.front_parts import PlayedEngine, caller, make_info

SAMPLING = SamplingParams(max_new_tokens=10, seed=7)


@pytest.fixture
def engine(pairs: dict[str, Pair]) -> Iterator[PlayedEngine]:
    log = CallLog("error")
    yield PlayedEngine(make_info(pairs["qwen2"].av), log)
    log.close()


def count(engine: PlayedEngine, name: str, **labels: str) -> Any:
    return engine.telemetry.metrics.registry.get_sample_value(f"gloss_{name}", labels)


def activations(num: int, **fields: Any) -> VerbalizeRequest:
    rows: Any = [[1.0]] * num
    return VerbalizeRequest(activations=rows, sampling=SAMPLING, **fields)


def test_a_call_that_is_given_up_had_its_first_token(engine: PlayedEngine) -> None:
    first = "time_to_first_token_seconds_count"
    with engine.dispatcher.verbalizing(activations(3, priority="batch"), caller()) as run:
        engine.report(started={run.run_id: 2})
        engine.report(started={run.run_id: 1})
    assert count(engine, first, priority="batch") == 1
    assert count(engine, first, priority="interactive") == 0
    assert count(engine, "queue_time_seconds_count", priority="batch") == 3
    assert count(engine, "requested_tokens_total") == 30
    labels = {"method": "Verbalize", "priority": "batch"}
    assert count(engine, "end_to_end_seconds_count", **labels) == 0
    with engine.dispatcher.verbalizing(activations(1, priority="batch"), caller()) as run:
        engine.report(started={run.run_id: 1})
        engine.report(finished=[run.run_id])
    assert count(engine, "end_to_end_seconds_count", **labels) == 1


def begin(engine: PlayedEngine, run: TextRun) -> None:
    """One activation of a text is read, begins to run and is done."""
    name = str(run.run_id)
    engine.report(opened=[OpenedText(request_id=name, token_ids=(1, 2, 3), positions=(2,))])
    place = TokenPlace(2, 3, 1.0, 1)
    engine.report(captured=[CapturedToken(request_id=name, index=0, place=place)])
    engine.report(started={run.run_id: 1}, finished=[run.run_id])


def test_an_explain_is_timed_and_a_watch_is_not(engine: PlayedEngine) -> None:
    first = "time_to_first_token_seconds_count"
    text = TextInput(text="some text")
    watch = WatchRequest(input=text, max_pending=3, sampling=SAMPLING, stream=True)
    with engine.dispatcher.watching(watch, 9, caller()) as run:
        begin(engine, run)
    assert count(engine, first, priority="interactive") == 0
    explain = ExplainRequest(input=text, sampling=SAMPLING, stream=True)
    with engine.dispatcher.explaining(explain, 9, caller()) as run:
        begin(engine, run)
    assert count(engine, first, priority="interactive") == 1
    labels = {"method": "Explain", "priority": "interactive"}
    assert count(engine, "end_to_end_seconds_count", **labels) == 1
