"""The page's routes: its files, and the service's calls as JSON and server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gloss_client import AsyncClient, GlossClientError
from gloss_server.page.guard import Guard
from gloss_server.page.json_text import json_text
from gloss_server.page.problem import Problem
from gloss_server.page.request_body import read_body
from gloss_server.page.static_files import StaticFiles
from gloss_server.page.stats_feed import StatsFeed
from gloss_server.page.stream_response import EventResponse, call_chunks
from gloss_server.page.wanted import explain_arguments, watch_arguments

ASK_SECONDS = 10.0
RUN_SECONDS = 3600.0
"""A call may wait behind everybody else's; a browser that goes away ends it before."""


class Page:
    """What the routes do.

    Args:
        client: the service.
        closing: set when the page is shut down.
    """

    def __init__(self, client: AsyncClient, closing: asyncio.Event) -> None:
        self._client, self._closing = client, closing
        self._feeds: dict[str, StatsFeed] = {}

    async def model(self, request: Request) -> Response:
        """What the service has loaded."""
        info = await self._caller(request).model_info(timeout=ASK_SECONDS)
        return Response(json_text(asdict(info)), media_type="application/json")

    async def stats(self, request: Request) -> Response:
        """What it does, every second."""
        token = _token(request) or ""
        if request.method == "HEAD":
            # It has no end to wait for.
            return Response(media_type="text/event-stream")
        feed = self._feeds.get(token)
        if feed is None:
            self._feeds = {name: one for name, one in self._feeds.items() if one.num_readers}
            feed = self._feeds[token] = StatsFeed(self._caller(request))
        return cast(Response, EventResponse(feed.chunks, self._closing))

    async def explain(self, request: Request) -> Response:
        """Explain a text."""
        text, options = explain_arguments(await read_body(request))
        client = self._caller(request)
        stream = client.stream_explain(text, **options, timeout=RUN_SECONDS)
        return cast(Response, EventResponse(lambda: call_chunks(stream), self._closing))

    async def watch(self, request: Request) -> Response:
        """Let the target go on from a prompt."""
        prompt, options = watch_arguments(await read_body(request))
        client = self._caller(request)
        stream = client.watch(prompt, **options, timeout=RUN_SECONDS)
        return cast(Response, EventResponse(lambda: call_chunks(stream), self._closing))

    def _caller(self, request: Request) -> AsyncClient:
        """The service, for whoever asks."""
        token = _token(request)
        return self._client if token is None else self._client.with_token(token)


def page_app(client: AsyncClient, closing: asyncio.Event, hosts: Iterable[str] = ()) -> ASGIApp:
    """The page.

    Args:
        client: the service.
        closing: set when the page is shut down.
        hosts: names that it may be reached by, besides those of loopback.
    """
    page, files = Page(client, closing), StaticFiles()
    routes = Starlette(
        routes=[
            Route("/", files.index),
            Route("/static/{path:path}", files.file),
            Route("/api/model", page.model),
            Route("/api/stats", page.stats),
            Route("/api/explain", page.explain, methods=["POST"]),
            Route("/api/watch", page.watch, methods=["POST"]),
        ],
        exception_handlers={
            Problem: _problem,
            GlossClientError: _client_error,
            HTTPException: _http_error,
            ClientDisconnect: _left,
            Exception: _defect,
        },
    )
    # Outside of Starlette's own middleware, whose answer to a defect of ours it covers, too.
    return Guard(routes, hosts)


def _token(request: Request) -> str | None:
    """The bearer token that the browser shows; None: none.

    Raises:
        Problem: credentials of another kind.
    """
    given = request.headers.get("authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Problem(
            "UNAUTHENTICATED",
            "Authorization: got another kind of it, expected Bearer and a token",
            reason="NO_TOKEN",
        )
    return token.strip()


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _client_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GlossClientError)
    return Problem.of(error).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "NOT_FOUND" if error.status_code == 404 else "UNIMPLEMENTED"
    problem = Problem(
        code,
        f"{request.method} {request.url.path[:100]}: {error.detail}",
        reason="NO_SUCH_ROUTE",
        hint="Open the page itself.",
        status=error.status_code,
    )
    response = problem.response()
    response.headers.update(error.headers or {})
    return response


async def _left(request: Request, error: Exception) -> Response:
    """Nobody reads it."""
    return Response(status_code=499)


async def _defect(request: Request, error: Exception) -> Response:
    """The browser is told nothing of it; the log has the traceback."""
    return Problem(
        "INTERNAL",
        "the page's own server failed",
        reason="PAGE_DEFECT",
        hint="Its terminal has more.",
        status=500,
    ).response()
