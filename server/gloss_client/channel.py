"""The gRPC channel of a connection, for threads and for asyncio."""

from __future__ import annotations

import inspect

import grpc

from gloss_client.connection import Connection


def open_channel(connection: Connection, *, for_health: bool = False) -> grpc.Channel:
    """A channel for threads; one that asks for health does not avoid servers that do not serve."""
    target, credentials, options = _parts(connection, for_health)
    # As gRPC makes it: OpenTelemetry's instrumentation of it makes generators of streams, which
    # nobody can cancel. Calls continue the caller's trace without it.
    if credentials is None:
        return inspect.unwrap(grpc.insecure_channel)(target, options)
    return inspect.unwrap(grpc.secure_channel)(target, credentials, options)


def open_async_channel(connection: Connection, *, for_health: bool = False) -> grpc.aio.Channel:
    """The same for the event loop that runs."""
    target, credentials, options = _parts(connection, for_health)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)


def _parts(
    connection: Connection, for_health: bool
) -> tuple[str, grpc.ChannelCredentials | None, list[tuple[str, str | int]]]:
    options = connection.health_options() if for_health else connection.options()
    return connection.address.target, connection.credentials(), options
