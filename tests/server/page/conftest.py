"""The page's app before a service without a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from gloss_client import AsyncClient, RetryPolicy
from gloss_server.page.app import page_app
from support.asgi import Answer, Exchange, ask
from support.echo_server import EchoServer, echo_server


@pytest.fixture
def server() -> Iterator[EchoServer]:
    """A server of its own for each test."""
    with echo_server() as server:
        yield server


class Site:
    """The page, and the loop that it is on.

    Attributes:
        client: of the service.
        closing: set when the page is shut down.
        app: the page's.
    """

    def __init__(self, runner: asyncio.Runner, address: str) -> None:
        self._runner = runner
        self.client = AsyncClient(address, retry=RetryPolicy(max_attempts=1))
        self.closing = asyncio.Event()
        self.app = page_app(self.client, self.closing, ("page.example",))

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Do it on the page's loop."""
        return self._runner.run(work())

    def ask(self, *request: Any, **more: Any) -> Answer:
        """One request, to its end."""

        async def asked() -> Answer:
            return await ask(self.app, *request, **more)

        return self._runner.run(asked())

    def begin(self, *request: Any, **more: Any) -> Exchange:
        """A request that goes on; on the page's loop alone."""
        return Exchange(self.app, *request, **more)


@pytest.fixture
def site(server: EchoServer, runner: asyncio.Runner) -> Iterator[Site]:
    """The page."""
    site = Site(runner, server.address)
    yield site
    runner.run(site.client.close())
