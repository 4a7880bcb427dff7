"""The page's server: listens, serves until a signal, and ends open streams with a last word."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
import uvloop

from gloss_client import AsyncClient
from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.page.app import page_app

GRACE_SECONDS = 3
MAX_CONNECTIONS = 512
"""Open at once; more are refused, so that they leave descriptors for the service's connection."""
_BACKLOG = 128
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def listen(address: Address) -> socket.socket:
    """A socket at which browsers are served.

    Raises:
        CommandError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, place = found[0]
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise CommandError(f"--listen {address}: no such host: {error.strerror}") from error
    except OSError as error:
        # What socket has to say of it names the address once more.
        reason = os.strerror(error.errno or 0)
        raise CommandError(
            f"--listen {address}: cannot listen there: {reason}. Name another address (port 0 "
            "lets the system choose), or stop what listens there"
        ) from error


def serve_page(
    open_client: Callable[[], AsyncClient], listening: socket.socket, hosts: Sequence[str]
) -> None:
    """Serve until a signal.

    Args:
        open_client: makes the client of the service.
        listening: where.
        hosts: names that the page may be reached by, besides those of loopback.
    """
    uvloop.run(_serve(open_client, listening, hosts))


async def _serve(
    open_client: Callable[[], AsyncClient], listening: socket.socket, hosts: Sequence[str]
) -> None:
    closing = asyncio.Event()
    async with open_client() as client:
        config = uvicorn.Config(
            page_app(client, closing, hosts),
            loop="none",
            lifespan="off",
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        await _Server(config, closing).serve(sockets=[listening])


class _Server(uvicorn.Server):
    """Tells open streams that it ends, since they would not end by themselves."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """In uvicorn's place: a signal that was heard is not raised again at the end."""
        # What is ignored stays so: nohup means it, and a shell's background job.
        heard = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn: a second Ctrl-C does not wait."""
        super().handle_exit(sig, frame)
        with suppress(RuntimeError):
            asyncio.get_running_loop().call_soon_threadsafe(self._closing.set)
