"""Who may call at all: the bearer token is looked at before anything else of a call.

Before its request has arrived, let alone been parsed, and before it is clear whether its method
exists: who shows no token learns nothing but that it needs one. Health is for everybody, since
probes carry no tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc_health.v1 import health

from gloss_server.front.call_error import CallError
from gloss_server.front.caller_name import set_token_client
from gloss_server.front.handlers import Handlers
from gloss_server.front.labels import OTHER, method_name
from gloss_server.front.token_file import TokenClient, TokenClients

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

HEADER, SCHEME = "authorization", "bearer "
_OPEN = frozenset(f"/{health.SERVICE_NAME}/{method}" for method in ("Check", "Watch"))
_HINT = "expected the metadata authorization: Bearer TOKEN"


class Authentication(grpc.aio.ServerInterceptor):
    """Lets calls pass that show a token of the file; the first of a server's interceptors.

    Args:
        clients: those of the moment.
        handlers: end the others.
    """

    def __init__(self, clients: Callable[[], TokenClients], handlers: Handlers) -> None:
        self._clients, self._handlers = clients, handlers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        path = handler_call_details.method
        if path in _OPEN:
            return await continuation(handler_call_details)
        try:
            client = authenticate(self._clients(), handler_call_details.invocation_metadata)
            set_token_client(client)
            _check_method(client, path)
        except CallError as refusal:
            return self._refusing(path, refusal)
        return await continuation(handler_call_details)

    def _refusing(self, path: str, refusal: CallError) -> Handler:
        """Ends a call of whatever form; one that streams requests is not waited for."""
        name = method_name(path)

        async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._handlers.refuse(path if name == OTHER else name, context, refusal)

        return grpc.stream_stream_rpc_method_handler(refuse)


def authenticate(clients: TokenClients, metadata: Any) -> TokenClient:
    """The client whose token a call's metadata shows.

    Args:
        metadata: pairs of key and value.

    Raises:
        CallError: MISSING_TOKEN or WRONG_TOKEN; neither says what was shown.
    """
    shown = [value for key, value in metadata or () if key == HEADER]
    if not shown:
        raise CallError("MISSING_TOKEN", f"this server answers its clients alone; {_HINT}")
    if len(shown) > 1:
        _wrong(f"got {len(shown)} tokens, expected one")
    (value,) = shown
    if not isinstance(value, str) or value[: len(SCHEME)].lower() != SCHEME:
        _wrong("got credentials of another kind")
    client = clients.find(value[len(SCHEME) :].strip())
    if client is None:
        _wrong("got a token of no client of this server")
    return client


def _wrong(problem: str) -> NoReturn:
    raise CallError("WRONG_TOKEN", f"{problem}; {_HINT}, as the server's operator gave it")


def _check_method(client: TokenClient, path: str) -> None:
    if client.methods is not None and method_name(path) not in client.methods:
        allowed = ", ".join(sorted(client.methods))
        raise CallError(
            "METHOD_NOT_ALLOWED",
            f"client {client.name} may call {allowed} alone; ask the server's operator for more",
        )
