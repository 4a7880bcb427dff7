"""`gloss ui`: serve the page, as a client of a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gloss_client import AsyncClient, ConfigError, RetryPolicy
from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.terminal import print_lines

_NEEDED = ("starlette", "uvicorn", "uvloop")


@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """Options of the page, as the command line names them.

    Attributes:
        addresses: of the service; of several, calls go round them.
        listen: where browsers are served.
        allow_hosts: names that browsers may reach it by, besides those of loopback.
        connection: how the service is reached.
    """

    addresses: Sequence[str]
    listen: str
    allow_hosts: Sequence[str] = ()
    connection: ConnectionOptions = ConnectionOptions()


def run_ui(
    options: UiOptions, beside: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        options: as the command line has them.
        beside: entered once the page has its port, and left after it.

    Raises:
        CommandError: an extra that is missing; options that cannot work; a port that is taken.
    """
    check_installed()
    from gloss_server.page.server import listen, serve_page

    address = _listen_address(options.listen)
    open_client = _client_maker(options, address)
    hosts = (*options.allow_hosts, *([] if address.is_local else [address.host]))
    with listen(address) as listening, beside():
        bound = address.with_port(listening.getsockname()[1])
        print_lines([f"gloss ui ready: http://{bound}/"])
        serve_page(open_client, listening, hosts)


def _client_maker(options: UiOptions, address: Address) -> Callable[[], AsyncClient]:
    """What makes the client of the service, on the loop that it is for.

    Raises:
        CommandError: an address, file or token that cannot be used.
    """
    token, token_file = _token_source(options.connection, address)
    given, tls = options.addresses, options.connection.tls_options()

    def open_client() -> AsyncClient:
        return AsyncClient(
            given[0] if len(given) == 1 else given,
            tls=tls,
            token=token,
            token_file=token_file,
            # The page says at once that nobody answers, and asks again itself.
            retry=RetryPolicy(max_attempts=1),
        )

    try:
        open_client()
        if tls is not None:
            # The client reads the files only when it connects.
            tls.credentials()
    except ConfigError as error:
        raise CommandError(f"cannot connect: {error}") from error
    return open_client


def check_installed() -> None:
    """Refuse to start without what the page needs.

    Raises:
        CommandError: as it says.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CommandError(f"the page needs {', '.join(missing)}: pip install 'gloss-nla[ui]'")


def _listen_address(text: str) -> Address:
    """Where browsers are served.

    Raises:
        CommandError: no address.
    """
    try:
        return Address.parse(text)
    except ValueError as error:
        raise CommandError(f"--listen: got {text!r}, expected {error}") from error


def _token_source(
    connection: ConnectionOptions, address: Address
) -> tuple[str | None, Path | None]:
    """The token of those who show none.

    Raises:
        CommandError: it would be everybody's.
    """
    token, token_file = connection.token_source()
    if address.is_local or (token is None and token_file is None):
        return token, token_file
    raise CommandError(
        f"--token-file, GLOSS_TOKEN_FILE or GLOSS_TOKEN: got a token with --listen {address}, "
        "which everybody who reaches the page would use; leave it out and enter it in the page, "
        "or listen on loopback"
    )
