"""The RPCs of text over a played engine: what they tell of texts that fail, and slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.request import Explanation
from gloss_engine.text_request import CapturedToken, OpenedText, TokenPlace
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.stream_writer import StreamWriter
from gloss_server.front.text_service import TextService
from gloss_server.settings import ServeSettings
from support.checkpoints import Pair
from support.front_parts import PlayedEngine, caller, make_info
from support.text_calls import capture_request, explain_request, tokens

_MOST_UNREAD = 1000
_SETTINGS = {"max_text_characters": 20}


class _Call:
    """A client that reads the messages it is let."""

    request_id = "r"

    def __init__(self, reads: bool) -> None:
        self.runs: list[Any] = []
        self.read: list[Any] = []
        self.is_waiting, self._reads = False, reads

    def name(self, request_id: str) -> None:
        """See Call."""

    async def caller(self, request_id: str) -> Any:
        return caller(request_id)

    async def write(self, message: Any) -> None:
        self.is_waiting = not self._reads
        if self.is_waiting:
            await asyncio.Event().wait()
        self.read.append(message)


@pytest.fixture
def engine(pairs: dict[str, Pair]) -> Iterator[PlayedEngine]:
    log = CallLog("error")
    yield PlayedEngine(make_info(pairs["qwen2"].av), log, **_SETTINGS)
    log.close()


def _service(engine: PlayedEngine) -> TextService:
    streams = StreamWriter(_MOST_UNREAD)
    return TextService(ServeSettings(**_SETTINGS), engine.dispatcher, streams)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_texts_that_the_front_refuses_are_told_and_counted(engine: PlayedEngine) -> None:
    """They never reach the engine: whoever counts what fails in it hears of them here alone."""
    request = capture_request("long " * 5, pb.TextInput(), tokens([10**6]), tokens([]))
    call: Any = _Call(reads=True)
    asyncio.run(_service(engine).capture(request, call))
    told = {one.item_index: one.error.message for m in call.read for one in m.failures}
    assert sorted(told) == [0, 1, 2, 3] and not engine.submitted
    assert "got 25 characters" in told[0] and "got 1000000" in told[2]
    counts = {one.name: one.count for one in engine.telemetry.stats_response().item_errors}
    assert counts == dict.fromkeys(
        ("TEXT_TOO_LONG", "MISSING_FIELD", "INVALID_TOKEN_IDS", "EMPTY_TEXT"), 1
    )


def test_who_does_not_read_an_explains_first_message_is_told(engine: PlayedEngine) -> None:
    """It holds the whole text, and waits for its reader before any other is written."""

    async def scenario() -> None:
        call: Any = _Call(reads=False)
        explaining = asyncio.create_task(_service(engine).explain(explain_request("text"), call))
        await _until(lambda: call.runs)
        (run,) = call.runs
        name = str(run.run_id)
        opened = OpenedText(request_id=name, token_ids=(1, 2, 3), positions=(0, 1, 2))
        engine.report(opened=[opened])
        await _until(lambda: call.is_waiting)
        before = run.num_bytes
        places = [TokenPlace(position, position, 1.0, 1) for position in range(3)]
        engine.report(
            captured=[
                CapturedToken(request_id=name, index=index, place=place)
                for index, place in enumerate(places)
            ]
        )
        assert 0 < run.num_bytes - before <= _MOST_UNREAD
        await asyncio.sleep(0)
        assert not explaining.done()
        explanation = Explanation(
            request_id=name, index=0, sample=0, seed=7, token_ids=(5,), finish_reason="eos"
        )
        engine.report(explanations=[explanation])
        assert run.num_bytes - before > _MOST_UNREAD
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(explaining, 5)
        assert caught.value.reason == "SLOW_READER" and not call.read
        assert engine.cancelled == [run.run_id]

    asyncio.run(scenario())
