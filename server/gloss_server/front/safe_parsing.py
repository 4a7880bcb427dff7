"""Bytes that are no message, for the services that come from libraries: health and reflection.

grpc.aio answers them with UNKNOWN and the parser's text. Ours are framed by `handlers.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from gloss_server.front.call_error import CallError

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class SafeParsing(grpc.aio.ServerInterceptor):
    """Answers MALFORMED_REQUEST where a library's handler would fail to parse."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        parse = handler.request_deserializer
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _stream_stream(handler.stream_stream, parse),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _unary_stream(handler.unary_stream, parse),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary_unary(handler.unary_unary, parse),
            response_serializer=handler.response_serializer,
        )


def _unary_unary(behaviour: Callable[..., Any], parse: Callable[[bytes], Any]) -> Any:
    async def safe(content: bytes, context: Context) -> Any:
        return await behaviour(await _parsed(content, parse, context), context)

    return safe


def _unary_stream(behaviour: Callable[..., Any], parse: Callable[[bytes], Any]) -> Any:
    async def safe(content: bytes, context: Context) -> None:
        # Health's Watch writes its messages by itself.
        await behaviour(await _parsed(content, parse, context), context)

    return safe


def _stream_stream(behaviour: Callable[..., Any], parse: Callable[[bytes], Any]) -> Any:
    async def safe(contents: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        async def requests() -> AsyncIterator[Any]:
            async for content in contents:
                yield await _parsed(content, parse, context)

        async for reply in behaviour(requests(), context):
            yield reply

    return safe


async def _parsed(content: bytes, parse: Callable[[bytes], Any], context: Context) -> Any:
    try:
        return parse(content)
    except DecodeError:
        refusal = CallError(
            "MALFORMED_REQUEST", f"the request's {len(content)} bytes are no message"
        )
        await context.abort(refusal.code, str(refusal), refusal.trailing_metadata())
