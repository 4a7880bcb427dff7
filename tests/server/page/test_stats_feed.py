"""The service's figures: one poller for all who read them, none when nobody does."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from gloss_server.page import stats_feed
from support.asgi import Exchange, events_of
from support.echo_server import EchoServer
from support.echo_service import Fault


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty a second."""
    monkeypatch.setattr(stats_feed, "SECONDS", 0.05)


async def _leave(*exchanges: Exchange) -> None:
    for exchange in exchanges:
        exchange.leave()
        await exchange.end()


def test_figures_come_again_and_again(site: Any) -> None:
    async def read() -> None:
        exchange = site.begin("GET", "/api/stats")
        await exchange.chunk(2)
        events = exchange.answer.events()
        assert exchange.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert [name for name, _ in events] == ["stats"] * len(events)
        assert events[0][1]["state"] == "serving"
        assert events[0][1]["latencies"]["queue"]["p50"] == 0.25
        await _leave(exchange)

    site.run(read)


def test_one_poller_serves_all_and_stops_without_readers(site: Any, server: EchoServer) -> None:
    async def read() -> None:
        readers = [site.begin("GET", "/api/stats") for _ in range(20)]
        for reader in readers:
            await reader.chunk(3)
        asked = len(server.service.received)
        assert asked <= max(len(reader.answer.chunks) for reader in readers) + 1
        # One who comes later has the last figures at once, and no poll for itself.
        late = site.begin("GET", "/api/stats")
        await late.chunk(0)
        await _leave(late, *readers)
        await asyncio.sleep(0.02)
        asked = len(server.service.received)
        await asyncio.sleep(0.2)
        assert len(server.service.received) == asked
        again = site.begin("GET", "/api/stats")
        await again.chunk(0)
        assert len(server.service.received) > asked
        await _leave(again)

    site.run(read)


def test_a_reader_that_stalls_holds_nobody_up_and_gathers_nothing(site: Any) -> None:
    async def read() -> None:
        stalled, other = (site.begin("GET", "/api/stats") for _ in range(2))
        await stalled.chunk(0)
        stalled.reading.clear()
        await other.chunk(8)
        stalled.reading.set()
        await stalled.chunk(2)
        # It was waiting with one, and goes on with the newest.
        assert len(stalled.answer.chunks) <= 4
        await _leave(stalled, other)

    site.run(read)


def test_a_failure_is_told_and_it_goes_on(site: Any, server: EchoServer) -> None:
    unavailable = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="LOADING")
    server.service.faults.extend([None, unavailable, None])

    async def read() -> None:
        exchange = site.begin("GET", "/api/stats")
        await exchange.chunk(2)
        events = events_of(exchange.answer.body.decode())
        assert [name for name, _ in events[:3]] == ["stats", "failed", "stats"]
        assert events[1][1]["reason"] == "LOADING"
        await _leave(exchange)

    site.run(read)


def test_callers_with_other_tokens_have_pollers_of_their_own(site: Any, server: EchoServer) -> None:
    async def read() -> None:
        shows: list[dict[str, str]] = [{}, *({"authorization": f"Bearer {x}"} for x in "ab")]
        readers = [site.begin("GET", "/api/stats", headers) for headers in shows]
        for reader in readers:
            await reader.chunk(0)
        shown = {one.metadata.get("authorization") for one in server.service.received}
        assert shown == {None, "Bearer a", "Bearer b"}
        await _leave(*readers)

    site.run(read)


def test_who_asks_for_the_head_alone_does_not_wait(site: Any, server: EchoServer) -> None:
    answer = site.ask("HEAD", "/api/stats")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert server.service.received == []


def test_a_page_that_is_shut_down_ends_it(site: Any) -> None:
    async def close() -> None:
        exchange = site.begin("GET", "/api/stats")
        await exchange.chunk(0)
        site.closing.set()
        answer = await exchange.end()
        assert answer.is_whole and answer.events()[-1][1]["reason"] == "PAGE_CLOSING"

    site.run(close)


def test_a_defect_of_the_poller_is_not_waited_for(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(**_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(site.client, "stats", broken)

    async def read() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await site.begin("GET", "/api/stats").end()

    site.run(read)
