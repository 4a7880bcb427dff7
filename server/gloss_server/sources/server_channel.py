"""A plain channel to one server, for commands that ask how it is, also while it does not serve.

The client's own channel is for work: it leaves out servers whose health is not SERVING, which are
just those that `gloss health` and `gloss top` must hear from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import grpc

from gloss_client import ConfigError
from gloss_client.connection import Connection
from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.terminal import visible

CALL_SECONDS = 5.0
_MAX_DETAILS = 200
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # A server that restarts is found again within a second; gRPC's own limit is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    # A proxy in the environment is for what is not on this network.
    ("grpc.enable_http_proxy", 0),
)


class ServerError(CommandError):
    """A server that cannot be reached, or refuses to answer."""

    exit_status: ClassVar[int] = 1


@dataclass(frozen=True)
class ServerChannel:
    """A channel, and who asks on it.

    Attributes:
        channel: nothing is connected before the first call.
        connection: what it was made of.
    """

    channel: grpc.Channel
    connection: Connection

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call shows: the token, read again.

        Raises:
            CommandError: its file cannot be read any more.
        """
        token = self.connection.token
        try:
            return () if token is None else token.metadata()
        except ConfigError as error:
            raise CommandError(str(error)) from error


@contextmanager
def open_channel(
    address: str, options: ConnectionOptions, *, with_token: bool
) -> Iterator[ServerChannel]:
    """A channel to `address`.

    Args:
        options: how it connects.
        with_token: whether calls show the token; else it is not even looked for.

    Raises:
        CommandError: no address, or options that cannot work.
    """
    try:
        Address.parse(address, unix=True)
    except ValueError as error:
        raise CommandError(f"ADDRESS: got {address!r}, expected {error}") from error
    token, token_file = options.token_source() if with_token else (None, None)
    try:
        connection = Connection.of(
            address,
            tls=options.tls_options(),
            token=token,
            token_file=token_file,
            allow_plaintext_token=False,
            retry=None,
            wait_for_ready=False,
            timeout=CALL_SECONDS,
            max_in_flight=1,
        )
        credentials = connection.credentials()
    except ConfigError as error:
        raise CommandError(f"cannot connect: {error}") from error
    wanted = [*_OPTIONS]
    if options.tls_server_name is not None:
        wanted.append(("grpc.ssl_target_name_override", options.tls_server_name))
    if credentials is None:
        channel = grpc.insecure_channel(address, options=wanted)
    else:
        channel = grpc.secure_channel(address, credentials, options=wanted)
    with channel:
        yield ServerChannel(channel, connection)


def server_error(address: str, error: grpc.RpcError) -> ServerError:
    """What a failed call to a server means, as the line that a command ends with."""
    return ServerError(f"{address}: {reason(error)}")


def reason(error: grpc.RpcError) -> str:
    """Why a call failed, in a clause for people."""
    assert isinstance(error, grpc.Call)
    code, details = error.code(), visible((error.details() or "")[:_MAX_DETAILS])
    if code is grpc.StatusCode.UNAVAILABLE:
        return (
            f"no server answers there ({details}). Does `gloss serve` run at that address? One "
            "with TLS needs --tls or --tls-ca, and may want a certificate: --tls-cert"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {CALL_SECONDS:g} s. Is there a gRPC server at that address?"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the server there is not Gloss, or one of another version"
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return f"{code.name}: {details}. Name the token's file with --token-file"
    return f"{code.name}: {details}"
