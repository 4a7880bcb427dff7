"""Where a server listens: HOST:PORT, [IPV6]:PORT or unix:PATH, parsed once and printed back."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_HOST_PORT = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)
_MAX_PORT = 65535
# sockaddr_un.sun_path is 108 bytes with its closing 0 (104 on macOS).
_MAX_PATH_BYTES = 103


@dataclass(frozen=True, kw_only=True)
class Address:
    """An address to listen at.

    Attributes:
        host: name or number, IPv6 without brackets; "" for a Unix socket.
        port: 0 lets the system choose one.
        path: of a Unix socket; None for TCP.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str, *, unix: bool = False) -> Address:
        """An address from its text.

        Args:
            unix: whether unix:PATH is one, too.

        Raises:
            ValueError: whose message begins with what was expected.
        """
        forms = "HOST:PORT or [IPV6]:PORT" + (" or unix:PATH" if unix else "")
        if unix and text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path or len(path.encode()) > _MAX_PATH_BYTES:
                raise ValueError(f"unix:PATH with a path of 1 to {_MAX_PATH_BYTES} bytes")
            return cls(path=path)
        match = _HOST_PORT.fullmatch(text)
        if match is None:
            raise ValueError(forms)
        port = int(match["port"])
        if port > _MAX_PORT:
            raise ValueError(f"{forms} with a port of 0 to {_MAX_PORT}")
        return cls(host=match["ipv6"] or match["host"], port=port)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def with_port(self, port: int) -> Address:
        """The same host at the port that the system chose."""
        return Address(host=self.host, port=port, path=self.path)

    def __str__(self) -> str:
        """As gRPC and a command line take it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
