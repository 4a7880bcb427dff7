"""`gloss top`: a server's live figures, asked for each second and drawn in place.

How the page looks is `top_page.py`'s. A server that goes away is waited for; the last figures stay
on the screen meanwhile.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from rich.console import Console
from rich.live import Live

from gloss_api.v1 import gloss_pb2, gloss_pb2_grpc
from gloss_server.connection_options import ConnectionOptions
from gloss_server.server_channel import (
    CALL_SECONDS,
    ServerChannel,
    open_channel,
    reason,
    server_error,
)
from gloss_server.terminal import print_lines, print_page
from gloss_server.top_page import View, page, view_json

REFRESH_SECONDS = 1.0


class Watched:
    """A server that is asked again and again.

    Args:
        address: for messages.
        server: the way to it.
    """

    def __init__(self, address: str, server: ServerChannel) -> None:
        self._address, self._server = address, server
        self._stub = gloss_pb2_grpc.GlossServiceStub(server.channel)
        self._view: View | None = None

    def ask(self) -> View:
        """Its figures of now.

        Raises:
            grpc.RpcError: it does not answer.
        """
        stats = self._call(self._stub.GetStats, gloss_pb2.GetStatsRequest())
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
        except grpc.RpcError as error:
            last = self._view
            assert last is not None
            return View(
                address=last.address,
                stats=last.stats,
                info=last.info,
                trouble=f"The figures are old: {reason(error)} Asking again.",
            )


def run_top(
    address: str, options: ConnectionOptions, console: Console, once: bool, as_json: bool
) -> None:
    """Show a server's figures: once as a page or as JSON, or live until q or Ctrl-C.

    Raises:
        ServerError: it did not answer the first time.
    """
    with open_channel(address, options, with_token=True) as channel:
        server = Watched(address, channel)
        try:
            view = server.ask()
        except grpc.RpcError as error:
            raise server_error(address, error) from error
        if as_json:
            print_lines([view_json(view)])
        elif once or not console.is_terminal:
            print_page(page(view), console)
        else:
            _follow(server, view, console)


def _follow(server: Watched, view: View, console: Console) -> None:
    with (
        suppress(KeyboardInterrupt),
        _keys() as keyboard,
        Live(page(view), console=console, screen=True, auto_refresh=False) as live,
    ):
        while not _quit_asked(keyboard, REFRESH_SECONDS):
            live.update(page(server.ask_again()), refresh=True)


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
