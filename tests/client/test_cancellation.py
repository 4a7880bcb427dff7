"""Leaving a stream ends it on the server at once, however it is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from gloss_client import AsyncClient, Cancelled, Client, ServerError
from support.echo_server import EchoServer
from support.echo_service import Fault

STREAMS = ["3 rows", "150 rows", "explain", "watch", "3 texts", "150 texts"]


def open_stream(client: Any, which: str, rows: np.ndarray) -> Any:
    """150 items are four streams where the server takes 40."""
    if which in ("explain", "watch"):
        return client.watch("a") if which == "watch" else client.stream_explain("a")
    number = int(which.split()[0])
    if which.endswith("rows"):
        return client.stream_verbalize(rows[:number])
    return client.stream_capture(["a"] * number)


def break_out(stream: Any) -> None:
    for _ in stream:
        break


def close(stream: Any) -> None:
    next(stream)
    stream.close()
    assert list(stream) == []


def leave_block(stream: Any) -> None:
    with stream:
        next(stream)


def raise_inside(stream: Any) -> None:
    with pytest.raises(KeyError), stream:
        for _ in stream:
            raise KeyError


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("which", STREAMS)
@pytest.mark.parametrize("leave", [break_out, close, leave_block, raise_inside])
def test_leaving_a_stream_cancels_it(
    sync_client: Client,
    server: EchoServer,
    rows: np.ndarray,
    leave: Callable[[Any], None],
    which: str,
) -> None:
    """Each would take 60 s."""
    server.service.limits.max_items = 40
    server.service.step_seconds = 0.01
    assert sync_client.model_info().limits.max_items == 40
    server.service._messages = endless(server.service._messages)  # type: ignore[method-assign]
    leave(open_stream(sync_client, which, rows))
    gc.collect()
    assert server.service.cancelled.wait(30)
    wait_until(lambda: server.service._in_flight == 0)


def endless(messages: Callable[..., Any]) -> Callable[..., Any]:
    """A stream that says its tokens for ever."""

    def again(*args: Any) -> Any:
        start, token, *_ = messages(*args)
        yield start
        while True:
            yield token

    return again


@pytest.mark.parametrize("which", STREAMS)
def test_a_stream_is_closed_from_another_thread(
    sync_client: Client, server: EchoServer, rows: np.ndarray, which: str
) -> None:
    """The reader waits for a message that does not come, and is let go."""
    server.service.limits.max_items = 40
    server.service.step_seconds = 30
    stream = open_stream(sync_client, which, rows)
    threading.Timer(0.1, stream.close).start()
    began = time.monotonic()
    # What came with the first message of an explained text: its tokens.
    assert len(list(stream)) <= 1
    assert time.monotonic() - began < 5
    assert stream.summary is None


def test_a_closed_client_cancels_what_runs(server: EchoServer, rows: np.ndarray) -> None:
    server.service.step_seconds = 1
    client = Client(server.address)
    threading.Timer(0.1, client.close).start()
    with pytest.raises(Cancelled):
        client.verbalize(rows[:1])


def test_a_failed_piece_cancels_the_others(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    server.service.limits.max_items = 50
    server.service.step_seconds = 30
    client = connect(server.address)
    client.model_info()
    # The last of the three to arrive: the others are there by then.
    server.service.faults = deque([None, None, Fault(code=grpc.StatusCode.INTERNAL)])
    began = time.monotonic()
    with pytest.raises(ServerError):
        client.verbalize(rows)
    assert time.monotonic() - began < 5
    assert server.service.cancelled.wait(30)


def test_calls_that_end_are_not_cancelled(
    connect: Any, server: EchoServer, rows: np.ndarray
) -> None:
    """So that the tests here see cancellation and nothing else."""
    client = connect(server.address)
    client.verbalize(rows[:2])
    list(client.stream_verbalize(rows[:2]))
    client.explain("a")
    list(client.watch("a"))
    client.capture(["a", "b"])
    assert not server.service.cancelled.wait(0.1)


def test_threads_share_a_client(sync_client: Client, server: EchoServer, rows: np.ndarray) -> None:
    server.service.limits.max_items = 20
    results: list[Any] = []

    def work(seed: int) -> None:
        unary = sync_client.verbalize(rows, seed=seed).explanations
        events = list(sync_client.stream_verbalize(rows[:5], seed=seed))
        results.append((seed, unary, events[-5:]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(seed for seed, _, _ in results) == list(range(6))
    for seed, unary, streamed in results:
        assert [done.token_ids[0] for done in unary] == [
            (seed + 7 * index) % 1000 for index in range(150)
        ]
        assert tuple(streamed) == unary[:5]


@pytest.mark.parametrize("which", STREAMS)
@pytest.mark.parametrize("how", ["break", "aclose", "block", "task", "other task"])
def test_leaving_an_asyncio_stream_cancels_it(
    runner: asyncio.Runner, server: EchoServer, rows: np.ndarray, how: str, which: str
) -> None:
    server.service.limits.max_items = 40
    server.service.step_seconds = 0.01

    async def read(stream: Any) -> None:
        async for _ in stream:
            if how not in ("task", "other task"):
                break

    async def leave() -> None:
        async with AsyncClient(server.address) as client:
            await client.model_info()
            server.service._messages = endless(server.service._messages)  # type: ignore
            stream = open_stream(client, which, rows)
            if how == "block":
                async with stream:
                    await read(stream)
            elif how in ("task", "other task"):
                task = asyncio.create_task(read(stream))
                await asyncio.sleep(0.1)
                if how == "task":
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    await stream.aclose()
                    done, _ = await asyncio.wait([task], timeout=2)
                    assert done, "the reader was not let go"
                    await task
            else:
                await read(stream)
                if how == "aclose":
                    await stream.aclose()
            del stream
            # The loop goes on, and with it the connection: only the stream has ended.
            await asyncio.to_thread(server.service.cancelled.wait, 5)
            await asyncio.to_thread(wait_until, lambda: server.service._in_flight == 0)

    runner.run(leave())
    assert server.service.cancelled.is_set()


@pytest.mark.parametrize("method", ["verbalize", "explain", "capture"])
def test_a_cancelled_task_cancels_its_call(
    runner: asyncio.Runner, server: EchoServer, rows: np.ndarray, method: str
) -> None:
    given: Any = {"verbalize": rows[:1], "explain": "a", "capture": ["a"]}[method]

    async def cancel() -> None:
        server.service.step_seconds = 0.5
        async with AsyncClient(server.address) as client:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(getattr(client, method)(given), 0.1)
            assert time.monotonic() - began < 0.4
            assert await asyncio.to_thread(server.service.cancelled.wait, 5)

    runner.run(cancel())


@pytest.mark.parametrize("which", ["1 unary", "150 unary", "stats", *STREAMS])
def test_a_closed_asyncio_client_cancels_what_runs(
    runner: asyncio.Runner,
    server: EchoServer,
    rows: np.ndarray,
    which: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for a call is told, as with threads: his task was not cancelled, and he does not
    wait for ever, also where several calls bring one batch."""
    server.service.limits.max_items = 40
    server.service.step_seconds = 30

    async def close_meanwhile() -> None:
        client = AsyncClient(server.address, timeout=10)
        await client.model_info()

        async def use() -> None:
            if which == "stats":
                monkeypatch.setattr(server.service, "_leave", lambda: time.sleep(0.5))
                await client.stats()
            elif which.endswith("unary"):
                await client.verbalize(rows[: int(which.split()[0])])
            else:
                async for _ in open_stream(client, which, rows):
                    pass

        using = asyncio.create_task(use())
        await asyncio.sleep(0.2)
        await client.close()
        async with asyncio.timeout(5):
            with pytest.raises(Cancelled):
                await using

    runner.run(close_meanwhile())


def test_an_asyncio_client_belongs_to_its_loop(server: EchoServer, rows: np.ndarray) -> None:
    client = AsyncClient(server.address)

    async def use() -> None:
        await client.verbalize(rows[:1])

    async def use_and_close() -> None:
        await use()
        await client.close()

    with asyncio.Runner() as runner:
        runner.run(use())
        with (
            asyncio.Runner() as other,
            pytest.raises(RuntimeError, match="make one for each loop"),
        ):
            other.run(use())
        runner.run(use_and_close())


def test_a_task_that_is_cancelled_after_its_stream_stays_cancelled(
    runner: asyncio.Runner, server: EchoServer, rows: np.ndarray
) -> None:
    """Closing the stream must not swallow the cancellation of the task that reads it."""
    server.service.step_seconds = 30

    async def cancel() -> None:
        async with AsyncClient(server.address) as client:
            stream = client.stream_verbalize(rows[:1])
            task = asyncio.create_task(anext(stream, None))
            await asyncio.sleep(0.1)
            await stream.aclose()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    runner.run(cancel())
