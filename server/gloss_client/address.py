"""Where the servers are: addresses as people write them, to the target that gRPC resolves."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gloss_client.errors import ConfigError

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/,\[\]]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the servers are.

    Attributes:
        target: what gRPC resolves; calls go round all the addresses it gives.
        loopback: whether every one of them is on this machine.
    """

    target: str
    loopback: bool

    @classmethod
    def parse(cls, address: str | Sequence[str]) -> Address:
        """Reads `host:port`, several IP addresses (with commas or as a sequence), or a gRPC target.

        Raises:
            ConfigError: what cannot be an address.
        """
        given = address.split(",") if isinstance(address, str) else list(address)
        parts = [part.strip() for part in given]
        if not any(parts):
            raise ConfigError("address: got none, expected host:port, such as 127.0.0.1:50051")
        if parts[0].startswith(_SCHEMES):
            return _of_target(",".join(parts))
        hosts = [_host_port(part) for part in parts]
        if len(hosts) == 1:
            host, port = hosts[0]
            return cls(target=f"dns:///{host}:{port}", loopback=_is_loopback(host))
        return _of_several(hosts)

    def __str__(self) -> str:
        return self.target.removeprefix("dns:///")


def _of_target(target: str) -> Address:
    """A target that already names its resolver."""
    scheme, _, rest = target.partition(":")
    if scheme.startswith("unix"):
        return Address(target=target, loopback=True)
    hosts = [_host_port(part)[0] for part in rest.rpartition("/")[2].split(",")]
    return Address(target=target, loopback=all(map(_is_loopback, hosts)))


def _of_several(hosts: list[tuple[str, str]]) -> Address:
    """gRPC takes a list of IP addresses of one family; names it resolves only one at a time."""
    versions = {_ip_version(host) for host, _ in hosts}
    if len(versions) != 1 or None in versions:
        got = ", ".join(f"{host}:{port}" for host, port in hosts)
        raise ConfigError(
            f"address: got {got}; several addresses must be IP addresses, all IPv4 or all IPv6. "
            "For names, use one that resolves to every server: dns:///name:port"
        )
    joined = ",".join(f"{host}:{port}" for host, port in hosts)
    loopback = all(_is_loopback(host) for host, _ in hosts)
    return Address(target=f"ipv{versions.pop()}:{joined}", loopback=loopback)


def _host_port(text: str) -> tuple[str, str]:
    match = _HOST_PORT.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ConfigError(f"address: got {text!r}, expected host:port, such as 127.0.0.1:50051")
    return match["host"], match["port"]


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    return _ip_version(host) is not None and ipaddress.ip_address(host.strip("[]")).is_loopback
