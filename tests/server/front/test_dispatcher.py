"""Text between calls and engine: let in twice, grown, refused, given up; all comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gloss_engine.errors import OUT_OF_MEMORY, ItemError
from gloss_engine.request import Explanation, TextRequest, VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.text_request import (
    CapturedToken,
    CaptureRequest,
    ExplainRequest,
    OpenedText,
    Reading,
    SkippedToken,
    TargetEnd,
    TextInput,
    TokenPlace,
    WatchRequest,
)
from gloss_server.front.call import Call
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.text_run import TextRun
from gloss_server.link.messages import Refusal
from gloss_server.link.reading_parts import ReadingPart
from support.checkpoints import Pair
from support.front_parts import PlayedEngine, caller, make_info

MOST, BURST = 10, 8
"""Tokens of an explanation; explanations there is room for."""


@pytest.fixture
def make(pairs: dict[str, Pair]) -> Iterator[Callable[..., PlayedEngine]]:
    """Makes a played engine with room for BURST explanations, 100 tokens of texts, 2 Watches."""
    log = CallLog("error")

    def play(**settings: Any) -> PlayedEngine:
        usual = {
            "max_queued_explanations": BURST,
            "max_queued_tokens": BURST * MOST,
            "max_text_tokens": 50,
            "max_queued_text_tokens": 100,
            "max_queued_watches": 2,
        }
        return PlayedEngine(make_info(pairs["qwen2"].av), log, **(usual | settings))

    yield play
    log.close()


class _Context:
    """Of a call without a deadline."""

    def time_remaining(self) -> None:
        """See grpc."""

    def peer(self) -> str:
        """See grpc."""
        return "ipv4:1.2.3.4:5"

    def auth_context(self) -> dict[str, list[bytes]]:
        """See grpc."""
        return {}


def _explain(num_samples: int = 1) -> ExplainRequest:
    sampling = SamplingParams(max_new_tokens=MOST, seed=7)
    text = TextInput(text="some text")
    return ExplainRequest(input=text, num_samples=num_samples, sampling=sampling, stream=True)


def _watch(max_pending: int = 3, num_samples: int = 1) -> WatchRequest:
    return WatchRequest(
        input=TextInput(text="a prompt"),
        target_sampling=SamplingParams(max_new_tokens=20, seed=7),
        max_pending=max_pending,
        num_samples=num_samples,
        sampling=SamplingParams(max_new_tokens=MOST, seed=7),
        stream=True,
    )


def _opened(run: TextRun, *positions: int, num_tokens: int = 9) -> OpenedText:
    ids = tuple(range(num_tokens))
    return OpenedText(request_id=str(run.run_id), token_ids=ids, positions=positions)


def _captured(run: TextRun, index: int, position: int) -> CapturedToken:
    place = TokenPlace(position, position, 1.0, 1)
    return CapturedToken(request_id=str(run.run_id), index=index, place=place)


def _explanation(run: TextRun, index: int, sample: int = 0, **fields: Any) -> Explanation:
    return Explanation(
        request_id=str(run.run_id),
        index=index,
        sample=sample,
        seed=7,
        token_ids=(1, 2, 3),
        finish_reason="eos",
        **fields,
    )


def _item_errors(engine: PlayedEngine) -> dict[str, int]:
    counts = engine.telemetry.stats_response().item_errors
    return {count.name: count.count for count in counts}


def _room(engine: PlayedEngine) -> int:
    """Explanations that a call could ask for now."""
    for count in range(BURST, 0, -1):
        request = VerbalizeRequest(
            activations=[[1.0]] * count,  # type: ignore[arg-type]
            sampling=SamplingParams(max_new_tokens=MOST, seed=1),
        )
        try:
            with engine.dispatcher.verbalizing(request, caller()):
                return count
        except CallError as error:
            assert error.reason == "QUEUE_FULL"
    return 0


def test_an_explain_is_let_in_for_one_activation_and_then_for_all(make: Any) -> None:
    engine = make()
    with engine.dispatcher.explaining(_explain(), 9, caller()) as run:
        assert _room(engine) == BURST - 1
        engine.report(opened=[_opened(run, 2, 4, 6, 8)])
        assert _room(engine) == BURST - 4
        # Captured one by one; an explanation that ends makes room at once.
        engine.report(captured=[_captured(run, 0, 2), _captured(run, 1, 4)])
        assert run.num_items == 2 and len(run.tokens) == 2
        engine.report(tokens=[(run.run_id, 1, 5)], explanations=[_explanation(run, 0)])
        assert run.tokens == [[], [5]] and _room(engine) == BURST - 3
        engine.report(captured=[_captured(run, 2, 6), _captured(run, 3, 8)])
        ended = [_explanation(run, index) for index in (2, 1, 3)]
        engine.report(explanations=ended, finished=[run.run_id])
        assert (
            run.has_ended
            and run.failure is None
            and [p.position for p in run.places] == [*(2, 4, 6, 8)]
        )
    assert _room(engine) == BURST and run.run_id not in engine.cancelled


@pytest.mark.parametrize(
    ("positions", "settings", "reason", "field"),
    [
        (range(4), {}, "QUEUE_FULL", None),
        (range(9), {}, "BATCH_TOO_LARGE", "positions"),
    ],
)
def test_an_explain_may_be_refused_once_its_text_is_known(
    make: Any, positions: range, settings: dict[str, int], reason: str, field: str | None
) -> None:
    engine = make(**settings)
    with engine.dispatcher.explaining(_explain(), 9, caller()) as other:
        engine.report(opened=[_opened(other, 0, 1)])
        with engine.dispatcher.explaining(_explain(2), 9, caller("named")) as run:
            engine.report(opened=[_opened(run, *positions)])
            assert run.failure is not None and run.opened is None
            assert (run.failure.reason, run.failure.field) == (reason, field)
            assert engine.cancelled[-1] == run.run_id
            # What is still on its way for it is nobody's.
            engine.report(captured=[_captured(run, 0, 0)], finished=[run.run_id])
        assert _room(engine) == BURST - 2
        # The id is free again.
        with engine.dispatcher.explaining(_explain(), 9, caller("named")) as again:
            assert again is not run


def test_a_deadline_counts_when_the_text_is_known(make: Any) -> None:
    engine = make()
    with engine.dispatcher.explaining(_explain(), 9, caller(deadline=0.0)) as run:
        pass
    # Measured: 3 tokens an explanation, half a second a step, 4 slots.
    with engine.dispatcher.explaining(_explain(), 9, caller()) as run:
        engine.report(opened=[_opened(run, 0)], captured=[_captured(run, 0, 0)], num_rows=4)
        engine.report(num_rows=4)
        engine.report(explanations=[_explanation(run, 0)], num_rows=4, finished=[run.run_id])
    with (
        pytest.raises(CallError) as caught,
        engine.dispatcher.explaining(*(_explain(), 9, caller(deadline=0.0))),
    ):
        pass
    assert caught.value.reason == "DEADLINE_UNREACHABLE"
    assert _room(engine) == BURST


def test_texts_are_bounded_until_they_are_read(make: Any) -> None:
    engine = make()
    with ExitStack() as stack:
        first = stack.enter_context(engine.dispatcher.explaining(_explain(), 60, caller()))
        with (
            pytest.raises(CallError) as caught,
            engine.dispatcher.explaining(*(_explain(), 60, caller())),
        ):
            pass
        assert caught.value.reason == "QUEUE_FULL" and caught.value.retry_after
        engine.report(opened=[_opened(first, 0, 1)], captured=[_captured(first, 0, 0)])
        with pytest.raises(CallError), engine.dispatcher.capturing(60, caller()):
            pass
        engine.report(captured=[_captured(first, 1, 1)])
        stack.enter_context(engine.dispatcher.capturing(60, caller()))
    with engine.dispatcher.capturing(100, caller()):
        pass
    with pytest.raises(CallError) as caught, engine.dispatcher.capturing(101, caller()):
        pass
    assert (caught.value.reason, caught.value.field) == ("BATCH_TOO_LARGE", "inputs")


def test_a_watch_keeps_room_for_what_it_may_have_in_flight(make: Any) -> None:
    engine = make()
    admission = engine.dispatcher.admission
    with engine.dispatcher.watching(_watch(max_pending=3), 9, caller()) as run:
        assert _room(engine) == BURST - 3 and admission.num_idle == 3
        # More of the prompt than that: they are in flight once, and make room as they end.
        engine.report(opened=[_opened(run, *range(5))])
        assert _room(engine) == BURST - 5 and admission.num_idle == 5
        engine.report(captured=[_captured(run, index, index) for index in range(5)])
        assert admission.num_idle == 0
        engine.report(explanations=[_explanation(run, index) for index in (1, 0)])
        assert _room(engine) == BURST - 3 and admission.num_idle == 0
        engine.report(explanations=[_explanation(run, 2)])
        assert _room(engine) == BURST - 3 and admission.num_idle == 1
        engine.report(
            target_tokens=[(run.run_id, 9, 5)],
            captured=[_captured(run, 5, 9)],
            skipped=[
                SkippedToken(request_id=str(run.run_id), position=10, reason="every"),
                SkippedToken(request_id=str(run.run_id), position=11, reason="max_pending"),
            ],
            target_ends=[TargetEnd(request_id=str(run.run_id), finish_reason="length")],
        )
        assert run.target_tokens == [(9, 5)] and run.target_finish_reason == "length"
        assert [s.position for s in run.skipped] == [11]
        assert run.skip_counts == {"every": 1, "max_pending": 1}
        engine.report(explanations=[_explanation(run, i, lag_seconds=0.1) for i in (3, 4, 5)])
        assert _room(engine) == BURST - 3
        engine.report(finished=[run.run_id])
        assert run.has_ended
    assert _room(engine) == BURST and admission.num_idle == 0


def test_watches_are_bounded(make: Any) -> None:
    engine = make()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(engine.dispatcher.watching(_watch(1), 9, caller()))
        with pytest.raises(CallError, match="2 watches are in flight") as caught:
            stack.enter_context(engine.dispatcher.watching(_watch(1), 9, caller()))
        assert caught.value.reason == "QUEUE_FULL"
    with (
        pytest.raises(CallError) as caught,
        engine.dispatcher.watching(*(_watch(5, num_samples=2), 9, caller())),
    ):
        pass
    assert (caught.value.reason, caught.value.field) == ("BATCH_TOO_LARGE", "max_pending")
    assert _room(engine) == BURST


@pytest.mark.parametrize("kind", ["explain", "watch"])
@pytest.mark.parametrize("phase", ["queued", "opened", "captured", "explained"])
def test_who_leaves_at_any_phase_leaves_nothing(make: Any, kind: str, phase: str) -> None:
    engine = make()
    begin = engine.dispatcher.explaining if kind == "explain" else engine.dispatcher.watching
    request = _explain(2) if kind == "explain" else _watch(2, num_samples=2)
    with begin(request, 90, caller()) as run:
        if phase != "queued":
            engine.report(opened=[_opened(run, 0, 1, 2)])
        if phase in ("captured", "explained"):
            engine.report(captured=[_captured(run, 0, 0), _captured(run, 1, 1)])
        if phase == "explained":
            engine.report(explanations=[_explanation(run, 0, 1)])
    assert engine.cancelled == [run.run_id]
    assert run.failure is not None and run.failure.reason == "CANCELLED"
    assert _room(engine) == BURST and engine.dispatcher.admission.num_idle == 0
    with engine.dispatcher.capturing(100, caller()):
        pass


def test_who_brings_the_same_id_joins(make: Any) -> None:
    engine = make()
    with engine.dispatcher.watching(_watch(), 9, caller("w")) as first:
        engine.report(opened=[_opened(first)])
        with engine.dispatcher.watching(_watch(), 9, caller("w")) as second:
            assert second is first
        assert not first.has_ended
        engine.report(target_tokens=[(first.run_id, 9, 4)])
        engine.report(finished=[first.run_id])
    with engine.dispatcher.watching(_watch(), 9, caller("w")) as late:
        assert late is first and late.target_tokens == [(9, 4)]
    assert len([r for r in engine.submitted.values() if isinstance(r, WatchRequest)]) == 1


def test_what_found_no_memory_is_tried_again(make: Any) -> None:
    """Not answered out of what is remembered, while memory has long been there again."""
    engine = make()
    with engine.dispatcher.explaining(_explain(), 9, caller("e")) as run:
        engine.report(opened=[_opened(run, 3)], captured=[_captured(run, 0, 3)])
        engine.report(
            explanations=[_explanation(run, 0, error=OUT_OF_MEMORY)], finished=[run.run_id]
        )
        assert run.has_ended and run.failure is None
    with engine.dispatcher.explaining(_explain(), 9, caller("e")) as again:
        assert again is not run
        engine.report(opened=[_opened(again, 3)], captured=[_captured(again, 0, 3)])
        engine.report(explanations=[_explanation(again, 0)], finished=[again.run_id])
    with engine.dispatcher.explaining(_explain(), 9, caller("e")) as joined:
        assert joined is again


@pytest.mark.parametrize(
    ("kind", "reason", "field", "path"),
    [
        ("explain", "TEXT_TOO_LONG", "input", "input"),
        ("explain", "POSITION_OUT_OF_RANGE", "positions", "positions"),
        ("watch", "INVALID_CHAT", "input", "prompt"),
        ("watch", "NO_POSITION", "positions", "prompt_positions"),
        ("capture", "LAYER_OUT_OF_RANGE", "layer_index", "layer_index"),
    ],
)
def test_what_the_engine_judges_is_the_callers_mistake(
    make: Any, kind: str, reason: str, field: str, path: str
) -> None:
    engine = make()
    with ExitStack() as stack:
        dispatcher = engine.dispatcher
        if kind == "capture":
            permit = stack.enter_context(dispatcher.capturing(9, caller()))
            texts = CaptureRequest(inputs=(TextInput(text="a"),))
            run: Any = stack.enter_context(dispatcher.capturing_piece(texts, permit, caller()))
        elif kind == "watch":
            run = stack.enter_context(dispatcher.watching(_watch(), 9, caller()))
        else:
            run = stack.enter_context(dispatcher.explaining(_explain(), 9, caller()))
        message = f"{field}: got 1, expected 2"
        refusal = Refusal(run_id=run.run_id, reason=reason, field=field, message=message)
        engine.report(refusals=[refusal])
        assert run.failure is not None
        assert (run.failure.reason, run.failure.field) == (reason, path)
        assert str(run.failure) == f"{path}: got 1, expected 2"
    assert _room(engine) == BURST


def test_what_the_front_should_have_refused_is_a_defect(make: Any) -> None:
    engine = make()
    request = VerbalizeRequest(
        activations=[[1.0]],  # type: ignore[arg-type]
        sampling=SamplingParams(max_new_tokens=MOST, seed=1),
    )
    with engine.dispatcher.verbalizing(request, caller()) as run:
        refusal = Refusal(run_id=run.run_id, reason="INVALID_SAMPLES", field="x", message="x: y")
        engine.report(refusals=[refusal])
        assert run.failure is not None and run.failure.reason == "INTERNAL"
    with engine.dispatcher.explaining(_explain(), 9, caller()) as text:
        refusal = Refusal(run_id=text.run_id, reason="NEVER_HEARD_OF", field="x", message="x: y")
        engine.report(refusals=[refusal])
        assert text.failure is not None and text.failure.reason == "INTERNAL"


def test_waiting_until_a_text_is_known(make: Any) -> None:
    engine = make()

    async def scenario() -> None:
        with engine.dispatcher.explaining(_explain(), 9, caller()) as run:
            waiting = asyncio.create_task(run.until_opened())
            await asyncio.sleep(0)
            assert not waiting.done()
            opened = _opened(run, 1)
            engine.report(opened=[opened])
            assert await asyncio.wait_for(waiting, 1) == opened
            assert await asyncio.wait_for(run.until_opened(), 1) == opened
        with engine.dispatcher.explaining(_explain(), 9, caller()) as lost:
            waiting = asyncio.create_task(lost.until_opened())
            await asyncio.sleep(0)
            engine.dispatcher.engine_died("was killed", 1.0)
            with pytest.raises(CallError) as caught:
                await asyncio.wait_for(waiting, 1)
            assert caught.value.reason == "ENGINE_RESTARTED"

    asyncio.run(scenario())


def test_tokens_that_had_come_are_counted_in_the_log_when_the_engine_is_lost(make: Any) -> None:
    engine = make()
    call = Call("Explain", _Context(), b"", max_seconds=9)  # type: ignore[arg-type]
    with engine.dispatcher.explaining(_explain(), 9, caller()) as run:
        call.runs = [run]
        engine.report(opened=[_opened(run, 0, 1)], captured=[_captured(run, 0, 0)])
        engine.report(captured=[_captured(run, 1, 1)])
        tokens = [(run.run_id, 0, token) for token in (1, 2, 3)] + [(run.run_id, 1, 5)] * 2
        engine.report(tokens=tokens, explanations=[_explanation(run, 0)])
        engine.dispatcher.engine_died("was killed", 1.0)
        assert run.failure is not None and run.failure.reason == "ENGINE_RESTARTED"
    assert call.end("UNAVAILABLE", "ENGINE_RESTARTED", 1.0).num_tokens == 3 + 2


def test_readings_are_taken_once(make: Any) -> None:
    engine = make()
    texts = CaptureRequest(inputs=(TextInput(text="a"), TextInput(text="b")))
    with (
        engine.dispatcher.capturing(9, caller()) as permit,
        engine.dispatcher.capturing_piece(texts, permit, caller()) as run,
    ):
        name = str(run.run_id)
        error = ItemError(code="INVALID_ARGUMENT", reason="EMPTY_TEXT", message="input: none")
        first = Reading(request_id=name, index=1, token_ids=(1, 2, 3))
        engine.report(readings=[ReadingPart(reading=first, is_last=False)])
        assert run.take() == [first] and run.take() == [] and run.num_text_tokens == 0
        engine.report(readings=[ReadingPart(reading=first, is_last=True)])
        assert run.take() == [first] and run.num_text_tokens == 3
        second = Reading(request_id=name, index=0, error=error)
        last = ReadingPart(reading=second, is_last=True)
        engine.report(readings=[last], finished=[run.run_id])
        assert run.take() == [second] and run.has_ended and run.num_text_tokens == 3
    assert not engine.cancelled
    failed = _item_errors(engine)
    assert failed == {"EMPTY_TEXT": 1}


def test_a_client_pays_for_what_its_texts_take(make: Any) -> None:
    """Tokens read are never given back, those of explanations as far as they were not generated."""
    engine = make(client_tokens_per_second=1e-9, client_burst_seconds=40 / 1e-9)
    with engine.dispatcher.explaining(_explain(), 30, caller()) as run:
        # 40, less 3 activations of 10 tokens, less 30 read.
        engine.report(opened=[_opened(run, 0, 1, 2, num_tokens=30)])
        engine.report(captured=[_captured(run, index, index) for index in range(3)])
        with pytest.raises(CallError) as caught, engine.dispatcher.capturing(1, caller()):
            pass
        assert caught.value.reason == "RATE_LIMITED"
        engine.report(explanations=[_explanation(run, i) for i in range(3)], finished=[run.run_id])
    # 40 - 30 - 9 = 1.
    with engine.dispatcher.capturing(1, caller()) as permit:
        permit.text_read(2)
    with pytest.raises(CallError), engine.dispatcher.capturing(1, caller()):
        pass
    with engine.dispatcher.capturing(1, caller(client="ipv4:4.3.2.1")):
        pass


def test_texts_for_the_ar_are_paid_for_by_their_bytes(make: Any) -> None:
    engine = make(client_tokens_per_second=1e-9, client_burst_seconds=12 / 1e-9)
    texts = TextRequest(texts=("\u5927" * 11 + "xx", "y"))
    # 35 bytes and 1: 9 and 1 of 12, then 10 of 2; who owes something waits.
    for _ in range(2):
        with engine.dispatcher.running_texts(texts, caller()):
            pass
    with pytest.raises(CallError) as caught, engine.dispatcher.running_texts(texts, caller()):
        pass
    assert caught.value.reason == "RATE_LIMITED"
    other = caller(client="ipv4:4.3.2.1")
    with engine.dispatcher.running_texts(texts, other) as run:
        assert run.arrived == other.arrived and run.num_items == 2


def test_texts_that_the_front_refuses_are_counted_with_those_the_engine_does(make: Any) -> None:
    engine = make()
    reasons = ("MISSING_FIELD", "TEXT_TOO_LONG", "TEXT_TOO_LONG")
    failures = [ItemError(code="INVALID_ARGUMENT", reason=r, message="none") for r in reasons]
    with engine.dispatcher.capturing(1, caller(), failures):
        pass
    assert _item_errors(engine) == {"MISSING_FIELD": 1, "TEXT_TOO_LONG": 2}
    # A call that is refused as a whole has no items.
    with pytest.raises(CallError), engine.dispatcher.capturing(101, caller(), failures):
        pass
    assert sum(_item_errors(engine).values()) == 3


def test_a_prompt_is_paid_for_once(make: Any) -> None:
    engine = make(client_tokens_per_second=1e-9, client_burst_seconds=100 / 1e-9)
    with engine.dispatcher.watching(_watch(max_pending=1), 30, caller()) as run:
        # 100, less an explanation's 10 and the target's 20, less 30 read.
        engine.report(opened=[_opened(run, num_tokens=30)])
        for position in range(30, 40):
            engine.report(target_tokens=[(run.run_id, position, 5)])
        engine.report(finished=[run.run_id])
    # 100 - 30 - 10.
    with engine.dispatcher.capturing(1, caller()) as permit:
        permit.text_read(59)
    with engine.dispatcher.capturing(1, caller()) as permit:
        permit.text_read(2)
    with pytest.raises(CallError), engine.dispatcher.capturing(1, caller()):
        pass
