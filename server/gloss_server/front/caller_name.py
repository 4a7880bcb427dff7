"""Who calls: the client that its token or its certificate names, else the address it calls from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gloss_server.front.rate_limit import client_of
from gloss_server.front.token_file import TokenClient

if TYPE_CHECKING:
    import grpc

    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]

_MAX_NAME_CHARS = 128
# grpc.aio runs a call's interceptors and its handler in one task.
_token_client: ContextVar[TokenClient | None] = ContextVar("token_client", default=None)


def set_token_client(client: TokenClient) -> None:
    """For the rest of this task it is this client that calls."""
    _token_client.set(client)


def name_of(context: Context) -> tuple[str, bool]:
    """The client's name, and whether it has proved that it is the one."""
    client = _token_client.get()
    if client is not None:
        return client.name, True
    name = _certificate_name(context)
    return (client_of(context.peer()), False) if name is None else (name, True)


def _certificate_name(context: Context) -> str | None:
    """The name in a client's certificate: the common one, else its first alternative one.

    None where it showed no certificate.
    """
    shown = context.auth_context()
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in shown.get(key, ()):
            return name.decode(errors="replace")[:_MAX_NAME_CHARS]
    return None
