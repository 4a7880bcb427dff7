"""`gloss top`: servers' live figures, asked for each second and drawn in place.

How one server's page looks is `page.py`'s, and several servers' `table.py`'s. A server that goes
away is waited for; the last figures stay on the screen meanwhile.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
from rich.console import Console, RenderableType
from rich.live import Live

from gloss_api.v1 import gloss_pb2, gloss_pb2_grpc
from gloss_server.commands.top.history import History
from gloss_server.commands.top.page import View, page, view_json
from gloss_server.commands.top.table import table
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.sources.server_channel import (
    CALL_SECONDS,
    ServerChannel,
    ServerError,
    open_channel,
    server_error,
)
from gloss_server.terminal import print_lines, print_page

REFRESH_SECONDS = 1.0


class Watched:
    """A server that is asked again and again.

    Args:
        address: for messages.
        server: the way to it.

    Attributes:
        history: of what it has said.
    """

    def __init__(self, address: str, server: ServerChannel) -> None:
        self._address, self._server = address, server
        self._stub = gloss_pb2_grpc.GlossServiceStub(server.channel)
        self._view: View | None = None
        self.history = History()

    def ask(self) -> View:
        """Its figures of now.

        Raises:
            ServerError: it does not answer.
        """
        try:
            stats = self._call(self._stub.GetStats, gloss_pb2.GetStatsRequest())
        except grpc.RpcError as error:
            raise server_error(self._address, error) from error
        self.history.add(stats)
        self._view = View(address=self._address, stats=stats, info=self._info())
        return self._view

    def _info(self) -> gloss_pb2.GetModelInfoResponse | None:
        """What it has loaded; None while it loads."""
        with suppress(grpc.RpcError):
            return self._call(self._stub.GetModelInfo, gloss_pb2.GetModelInfoRequest())
        return None

    def _call(self, method: Any, request: Any) -> Any:
        return method(request, timeout=CALL_SECONDS, metadata=self._server.metadata())

    def ask_again(self) -> View:
        """Its figures of now; where it does not answer, the last ones and why."""
        try:
            return self.ask()
        except ServerError as error:
            why = str(error).removeprefix(f"{self._address}: ")
            if self._view is None:
                nothing = gloss_pb2.GetStatsResponse()
                return View(
                    address=self._address, stats=nothing, info=None, trouble=why, is_known=False
                )
            return replace(self._view, trouble=f"The figures are old: {why} Asking again.")


def run_top(
    addresses: Sequence[str],
    options: ConnectionOptions,
    console: Console,
    once: bool,
    as_json: bool,
) -> None:
    """Show servers' figures: once as a page or as JSON, or live until q or Ctrl-C.

    Raises:
        ServerError: one did not answer the first time; of several that are watched, none did.
    """
    with ExitStack() as channels:
        servers = [
            Watched(
                address, channels.enter_context(open_channel(address, options, with_token=True))
            )
            for address in addresses
        ]
        asking = channels.enter_context(ThreadPoolExecutor(len(servers)))
        if as_json:
            print_lines(view_json(view) for view in asking.map(Watched.ask, servers))
        elif once or not console.is_terminal:
            views = list(asking.map(Watched.ask, servers))
            print_page(_drawn(servers, views, console), console)
        else:
            _follow(servers, asking, console)


def _follow(servers: Sequence[Watched], asking: Executor, console: Console) -> None:
    views = list(asking.map(Watched.ask_again, servers))
    if not any(view.is_known for view in views):
        raise ServerError(f"{views[0].address}: {views[0].trouble}")
    with (
        suppress(KeyboardInterrupt),
        _keys() as keyboard,
        Live(
            _drawn(servers, views, console), console=console, screen=True, auto_refresh=False
        ) as live,
    ):
        while not _quit_asked(keyboard, REFRESH_SECONDS):
            views = list(asking.map(Watched.ask_again, servers))
            live.update(_drawn(servers, views, console), refresh=True)


def _drawn(servers: Sequence[Watched], views: Sequence[View], console: Console) -> RenderableType:
    """One server's page, or a line for each of several."""
    if len(views) > 1:
        return table(views, console.width)
    return page(views[0], console.width, servers[0].history)


@contextmanager
def _keys() -> Iterator[int | None]:
    """stdin, giving keys without waiting for a line; None where it is no terminal."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _quit_asked(keyboard: int | None, seconds: float) -> bool:
    """Whether q was pressed within `seconds`; returns at once when it is."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if keyboard is None:
            time.sleep(left)
        elif select.select([keyboard], [], [], left)[0]:
            pressed = os.read(keyboard, 64)
            if not pressed or b"q" in pressed.lower():
                return True
    return False
