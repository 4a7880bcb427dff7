"""A plain channel to one server, for commands that ask how it is, also while it does not serve.

The client's own channel is for work: it leaves out servers whose health is not SERVING, which are
just those that `gloss health` and `gloss top` must hear from.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import grpc

from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.terminal import visible

CALL_SECONDS = 5.0
_MAX_DETAILS = 200
_OPTIONS = [
    # A server that restarts is found again within a second; gRPC's own limit is two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    # A proxy in the environment is for what is not on this network.
    ("grpc.enable_http_proxy", 0),
]


class ServerError(CommandError):
    """A server that cannot be reached, or refuses to answer."""

    exit_status: ClassVar[int] = 1


@contextmanager
def open_channel(address: str) -> Iterator[grpc.Channel]:
    """A channel to `address`; nothing is connected before the first call.

    Raises:
        CommandError: no address.
    """
    try:
        Address.parse(address, unix=True)
    except ValueError as error:
        raise CommandError(f"ADDRESS: got {address!r}, expected {error}") from error
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        yield channel


def server_error(address: str, error: grpc.RpcError) -> ServerError:
    """What a failed call to a server means, as the line that a command ends with."""
    return ServerError(f"{address}: {reason(error)}")


def reason(error: grpc.RpcError) -> str:
    """Why a call failed, in a clause for people."""
    assert isinstance(error, grpc.Call)
    code, details = error.code(), visible((error.details() or "")[:_MAX_DETAILS])
    if code is grpc.StatusCode.UNAVAILABLE:
        return f"no server answers there ({details}). Does `gloss serve` run at that address?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {CALL_SECONDS:g} s. Is there a gRPC server at that address?"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "the server there is not Gloss, or one of another version"
    return f"{code.name}: {details}"
