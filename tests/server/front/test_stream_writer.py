"""Readers that do not read: how much may come meanwhile, and whom it concerns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gloss_server.front.call_error import CallError
from gloss_server.front.run import Run
from gloss_server.front.stream_writer import StreamWriter

_MOST = 1000


class _Run(Run):
    """A run of which only the size is told."""

    size = 0

    @property
    def num_bytes(self) -> int:
        return self.size

    def grow(self, num_bytes: int) -> None:
        self.size += num_bytes
        self.wake()


class _Cursor:
    """Takes a message each time."""

    is_at_end = False

    def __init__(self, run: _Run) -> None:
        self.run, self.num_taken = run, 0

    def take(self, info: Any) -> list[int]:
        self.num_taken += 1
        return [self.num_taken]


class _Call:
    """A client that reads a message whenever it is let."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.turns = asyncio.Semaphore(0)

    async def write(self, message: int) -> None:
        await self.turns.acquire()
        self.read.append(message)


async def _turns() -> None:
    """Let everybody do what he can."""
    for _ in range(20):
        await asyncio.sleep(0)


def _make() -> tuple[_Run, Any, Any, StreamWriter]:
    run = _Run(
        run_id=1, num_items=1, num_samples=1, max_new_tokens=9, seed=0, arrived=0.0, streams=True
    )
    return run, _Cursor(run), _Call(), StreamWriter(_MOST)


def _write(writer: StreamWriter, cursor: Any, call: Any) -> asyncio.Task[None]:
    info: Any = None
    return asyncio.create_task(writer.write(cursor, call, info))


def test_what_comes_while_a_message_waits_is_bounded() -> None:
    async def scenario() -> None:
        run, cursor, call, writer = _make()
        # What was there before the reader came is no fault of his.
        run.grow(50 * _MOST)
        writing = _write(writer, cursor, call)
        await _turns()
        run.grow(_MOST)
        await _turns()
        assert not writing.done()
        # Twice at once, and the end of the run with it.
        run.grow(1)
        run.grow(1)
        run.end(1.0)
        with pytest.raises(CallError) as caught:
            await asyncio.wait_for(writing, 5)
        assert caught.value.reason == "SLOW_READER" and not call.read
        run.grow(_MOST)

    asyncio.run(scenario())


def test_each_message_that_is_read_begins_anew() -> None:
    async def scenario() -> None:
        run, cursor, call, writer = _make()
        writing = _write(writer, cursor, call)
        for turn in range(1, 6):
            while cursor.num_taken < turn:
                await asyncio.sleep(0.001)
            run.grow(_MOST - 1)
            call.turns.release()
        await _turns()
        assert not writing.done() and len(call.read) >= 4
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(scenario())


def test_a_slow_reader_is_nobody_elses_fault() -> None:
    async def scenario() -> None:
        run, cursor, call, writer = _make()
        other_cursor, other_call = _Cursor(run), _Call()
        slow, other = _write(writer, cursor, call), _write(writer, other_cursor, other_call)
        await _turns()
        for _ in range(4):
            other_call.turns.release()
        await _turns()
        run.grow(_MOST + 1)
        with pytest.raises(CallError):
            await asyncio.wait_for(slow, 5)
        assert not other.done() and other_call.read[0] == 1
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other

    asyncio.run(scenario())
