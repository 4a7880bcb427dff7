"""A server without a model, and both clients for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from gloss_client import Client
from support.both_clients import BlockingClient
from support.echo_server import EchoServer, echo_server

Connect = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """A server of its own for each test."""
    with echo_server() as server:
        yield server


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Connect]:
    """Makes clients: of threads, then of asyncio. Closes them after the test."""
    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> Any:
            options.setdefault("timeout", 10)
            if request.param == "sync":
                return stack.enter_context(Client(*args, **options))
            return stack.enter_context(BlockingClient(runner, *args, **options))

        yield make


@pytest.fixture
def client(connect: Connect, server: EchoServer) -> Any:
    """A client of the server."""
    return connect(server.address)


@pytest.fixture
def sync_client(server: EchoServer) -> Iterator[Client]:
    """Where only threads matter."""
    with Client(server.address, timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """[150, 8] float32, multiples of 1/8 below 2 that fit every float type."""
    return np.random.default_rng(5).integers(-15, 16, (150, 8)).astype(np.float32) / 8
