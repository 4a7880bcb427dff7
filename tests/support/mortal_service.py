"""A service at one address that tests kill, and that comes back there."""

from __future__ import annotations

import socket
from pathlib import Path

from support.server_process import ServerProcess


def free_address() -> str:
    """One that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class MortalService:
    """Not there at first; a context manager.

    Args:
        folder: for the logs of its lives.
        settings: as ServerProcess takes them.

    Attributes:
        address: where it is, whenever it is.
    """

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        self.address = free_address()
        self._folder, self._settings = folder, settings
        self._number = 0
        self._server: ServerProcess | None = None

    def __enter__(self) -> MortalService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Without a word, as a crash is."""
        if self._server is not None:
            self._server.__exit__()
            self._server = None

    def alive(self) -> ServerProcess:
        """It, ready; started where it is not there."""
        if self._server is None or self._server.process.poll() is not None:
            self.kill()
            self._number += 1
            log = self._folder / f"log-{self._number}"
            self._server = ServerProcess(log, {"address": self.address}, self._settings)
        return self._server.wait_ready()
