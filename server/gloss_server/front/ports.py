"""A port of the server: whether it can be listened at, and gRPC's own settings of it."""

from __future__ import annotations

import errno
import math
import os
import socket

from gloss_server.address import Address
from gloss_server.settings import ServeSettings


def check_free(address: Address) -> None:
    """See whether an address can be listened at; gRPC says neither why not nor, of a Unix socket,
    that another server lives there: it would take its place.

    Raises:
        OSError: it cannot.
    """
    if address.path is not None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(address.path)
            except (ConnectionRefusedError, FileNotFoundError):
                # Nobody, or what a killed server left behind.
                directory = os.path.dirname(address.path) or "."
                os.stat(directory)
                return
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)


def grpc_options(settings: ServeSettings, max_connections: int) -> list[tuple[str, int]]:
    """gRPC's own settings of a port.

    Args:
        settings: of the server.
        max_connections: that the port has open at once.
    """
    options = [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", max_connections),
        # Between the two gRPC refuses at random, the likelier the larger.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        # Two servers that share a port would split its connections at random.
        ("grpc.so_reuseport", 0),
        # Clients may ping every 10 s, also between calls, and are not thrown out for it. With
        # `min_recv_ping_...`, the name found elsewhere, the setting is ignored.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    if settings.max_connection_age_seconds is not None:
        age_ms = math.ceil(1000 * settings.max_connection_age_seconds)
        options.append(("grpc.max_connection_age_ms", age_ms))
    return options
