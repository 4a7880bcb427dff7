"""Calls belong to their caller's trace: unary ones, streams, pieces in threads, under asyncio; also
where OpenTelemetry's own instrumentation of gRPC is at work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcInstrumentorClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id

from gloss_client import AsyncClient, Client
from support.echo_server import EchoServer

SPANS = TracerProvider(shutdown_on_exit=False)


@pytest.fixture(params=["plain", "instrumented"])
def instrumented(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the whole process' gRPC is instrumented."""
    instrumentors = (GrpcInstrumentorClient(), GrpcAioInstrumentorClient())
    if request.param == "plain":
        yield False
        return
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=SPANS)
    yield True
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


@contextmanager
def working() -> Iterator[tuple[str, str]]:
    """Within a span of the caller's; its trace and itself."""
    with SPANS.get_tracer("caller").start_as_current_span("work") as span:
        context = span.get_span_context()
        yield format_trace_id(context.trace_id), format_span_id(context.span_id)


def parents(server: EchoServer) -> set[tuple[str, ...]]:
    """(trace, span) of all calls that came in, of those that say one."""
    headers = [call.metadata.get("traceparent", "---") for call in server.service.received]
    return {tuple(header.split("-")[1:3]) for header in headers}


def test_calls_are_below_the_callers_span(
    server: EchoServer, rows: np.ndarray, instrumented: bool
) -> None:
    server.service.limits.max_items = 2
    many = np.concatenate([rows] * 9)[:9]
    with Client(server.address) as client:
        with working() as span:
            client.verbalize(rows[:1])
            client.verbalize(many)
            assert list(client.stream_verbalize(rows[:1]))
            # Pieces, each in a thread.
            assert list(client.stream_verbalize(many))
            client.score(["a"], rows[:1])
        assert len(server.service.received) > 10 and parents(server) == {span}
        server.service.received.clear()
        client.verbalize(rows[:1])
        assert parents(server) == {("", "")}


def test_a_stream_that_is_left_is_cancelled(
    server: EchoServer, rows: np.ndarray, instrumented: bool
) -> None:
    server.service.step_seconds = 0.05
    with Client(server.address) as client, working():
        with client.stream_verbalize(rows[:1]) as stream:
            next(stream)
        assert server.service.cancelled.wait(10)


def test_under_asyncio(server: EchoServer, rows: np.ndarray, instrumented: bool) -> None:
    async def call() -> None:
        async with AsyncClient(server.address) as client:
            await client.verbalize(rows[:1])
            assert [event async for event in client.stream_verbalize(rows[:1])]
            async with client.stream_verbalize(rows[:1]) as stream:
                await anext(stream)

    with working() as span:
        asyncio.run(call())
    (trace,) = {trace for trace, _ in parents(server)}
    assert trace == span[0]
    if not instrumented:
        assert parents(server) == {span}
