"""Gloss on Ray Serve: replicas behind Ray's gRPC ingress, the contract unchanged.

    PYTHONPATH=deploy serve run deploy/ray_serve.yaml

A replica is a `gloss serve` of its own, engine and all, on a Unix socket; the deployment passes
bytes on. So limits, admission, streams and errors are what they are without Ray, and what Ray adds
is placement, routing, scaling and the replacement of what dies.

Ray carries messages and a status between its proxy and a replica, not a call: deadline and metadata
travel with the request, and an error's details with a last, empty message, since what is raised
loses them. `Ingress` puts both on and takes both off again, in the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ray import serve

from gloss_api.v1 import gloss_pb2
from gloss_server.front.call_error import CallError

_CONTRACT = gloss_pb2.DESCRIPTOR.services_by_name["GlossService"]
_STATUS_DETAILS = "grpc-status-details-bin"
_SERVE = (sys.executable, "-m", "gloss_server.command", "serve")
_POLL_SECONDS = 0.1
_END_SECONDS = 10.0
_TURNS = 3
"""Of the event loop, in which what was asked for a message has come to where it waits."""
# Ray's own keys, and what belongs to one connection only.
_NOT_PASSED_ON = ("application", "request_id", "multiplexed_model_id", "session_id", "user-agent")


class Passed(NamedTuple):
    """A call on its way from the proxy to a replica.

    Attributes:
        content: the request's bytes.
        seconds: until its deadline; None: it has none.
        metadata: the caller's.
    """

    content: bytes
    seconds: float | None
    metadata: tuple[tuple[str, str | bytes], ...]

    @classmethod
    def of(cls, content: bytes, context: Any) -> Passed:
        """A call as it arrived."""
        metadata = tuple(
            (key, value)
            for key, value in context.invocation_metadata()
            if key not in _NOT_PASSED_ON and not key.startswith("grpc-")
        )
        return cls(content, context.time_remaining(), metadata)


class Reply(NamedTuple):
    """A reply's bytes, which Ray takes for a message."""

    content: bytes

    def SerializeToString(self) -> bytes:
        """See Message."""
        return self.content


class KeptContext:
    """A call's context that may be asked when the call has ended: gRPC crashes where it has freed
    what it would answer from.

    Args:
        context: gRPC's.
    """

    def __init__(self, context: Any) -> None:
        self._context, self._peer = context, context.peer()
        self._metadata = context.invocation_metadata()

    def peer(self) -> str:
        """See ServicerContext."""
        return str(self._peer)

    def invocation_metadata(self) -> Any:
        """See ServicerContext."""
        return self._metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Ingress(grpc.GenericRpcHandler):
    """Our methods within Ray's gRPC server. Ray puts behaviours of its own into the handlers."""

    def __init__(self) -> None:
        self._method_handlers: dict[str, Any] = {}
        self._giving_up = set[asyncio.Task[None]]()
        for method in _CONTRACT.methods:
            make = (
                grpc.unary_stream_rpc_method_handler
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            self._method_handlers[_path(method.name)] = make(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a method: Ray's, with what it does not carry put on and taken off."""
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        routed_unary, routed_stream = handler.unary_unary, handler.unary_stream

        async def unary(content: bytes, context: Any) -> bytes:
            reply: bytes = await routed_unary(Passed.of(content, context), context)
            _say_that_the_replica_is_gone(context)
            return reply

        async def stream(content: bytes, context: Any) -> AsyncIterator[bytes]:
            messages = routed_stream(Passed.of(content, context), KeptContext(context))
            is_sending = False

            def ended(_: object) -> None:
                if is_sending:
                    task = asyncio.ensure_future(_give_up(messages))
                    self._giving_up.add(task)
                    task.add_done_callback(self._giving_up.discard)

            context.add_done_callback(ended)
            async for message in messages:
                # No message of ours is empty: this one brought the status.
                if message:
                    is_sending = True
                    yield message
                    is_sending = False
            _say_that_the_replica_is_gone(context)

        return handler._replace(unary_unary=unary, unary_stream=stream)


def add_gloss_to_server(servicer: object, server: Any) -> None:
    """What `grpc_servicer_functions` of Ray's gRPC options names."""
    server.add_generic_rpc_handlers((Ingress(),))


async def _give_up(messages: AsyncIterator[bytes]) -> None:
    """Have Ray cancel what it streams.

    Ray hears of a caller who goes only while it waits for a message, and not of one who goes while
    a message is on its way to him: the replica would go on to the end. So it is asked for messages
    until it waits for one, and is given up there.
    """
    with contextlib.suppress(StopAsyncIteration, asyncio.CancelledError):
        while True:
            waiting = asyncio.ensure_future(anext(messages))
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            waiting.cancel()
            await waiting


def _path(method: str) -> str:
    return f"/{_CONTRACT.full_name}/{method}"


def _say_that_the_replica_is_gone(context: Any) -> None:
    """Give a call that Ray lost the status that callers know, in place of Ray's own words."""
    keys = [key for key, _ in context.trailing_metadata() or ()]
    if context.code() == grpc.StatusCode.INTERNAL and _STATUS_DETAILS not in keys:
        error = CallError(
            "ENGINE_RESTARTED", "the replica that had the call is gone; try again", retry_after=0.1
        )
        context.set_code(error.code)
        context.set_details(str(error))
        context.set_trailing_metadata(error.trailing_metadata())


def _unary(method: str) -> Callable[[Replica, Passed, Any], Awaitable[Reply]]:
    async def behaviour(self: Replica, passed: Passed, grpc_context: Any) -> Reply:
        call = self.channel.unary_unary(_path(method))
        try:
            return Reply(
                await call(passed.content, timeout=passed.seconds, metadata=passed.metadata)
            )
        except grpc.aio.AioRpcError as error:
            return _status(error, grpc_context)

    return behaviour


def _stream(method: str) -> Callable[[Replica, Passed, Any], AsyncIterator[Reply]]:
    async def behaviour(self: Replica, passed: Passed, grpc_context: Any) -> AsyncIterator[Reply]:
        call = self.channel.unary_stream(_path(method))(
            passed.content, timeout=passed.seconds, metadata=passed.metadata
        )
        try:
            async for message in call:
                yield Reply(message)
        except grpc.aio.AioRpcError as error:
            yield _status(error, grpc_context)
        finally:
            call.cancel()

    return behaviour


def _status(error: grpc.aio.AioRpcError, grpc_context: Any) -> Reply:
    """How a call ended, as Ray carries it: returned, since what is raised loses its details."""
    grpc_context.set_code(error.code())
    grpc_context.set_details(error.details() or "")
    trailing = error.trailing_metadata() or ()
    grpc_context.set_trailing_metadata([(key, value) for key, value in trailing])
    return Reply(b"")


class Replica:
    """One replica.

    Args:
        settings: of `gloss serve`, by name, as docs/service.md has them; but for the address, which
            is the replica's own.
    """

    async def __init__(self, settings: dict[str, object]) -> None:
        self._directory = tempfile.mkdtemp(prefix="gloss-")
        address = f"unix:{self._directory}/socket"
        # A port is for one server of a machine, so there is none unless it is asked for. Ray sends
        # no more calls to a replica before it ends it, so nothing drains here.
        stated = {"metrics_address": "", "drain_seconds": 0} | settings | {"address": address}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GLOSS_")}
        environment |= {f"GLOSS_{name.upper()}": str(value) for name, value in stated.items()}
        # Popen and not the event loop's own way, which may fork: gRPC's threads do not like it.
        # However the replica ends, its server ends with it.
        self._server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *_SERVE],
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        self.channel = grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        while not await self._is_serving():
            status = self._server.poll()
            if status is not None:
                raise RuntimeError(f"gloss serve ended with status {status}; the log says why")
            await asyncio.sleep(_POLL_SECONDS)

    Verbalize = _unary("Verbalize")
    StreamVerbalize = _stream("StreamVerbalize")
    Explain = _stream("Explain")
    Watch = _stream("Watch")
    Capture = _stream("Capture")
    Reconstruct = _unary("Reconstruct")
    Score = _unary("Score")
    GetModelInfo = _unary("GetModelInfo")
    GetStats = _unary("GetStats")

    async def check_health(self) -> None:
        """What Ray asks: a replica that does not serve for long is replaced.

        Raises:
            RuntimeError: it does not serve.
        """
        if not await self._is_serving():
            raise RuntimeError("gloss serve does not serve")

    async def __del__(self) -> None:
        """Ray has waited for the calls already."""
        self._server.terminate()
        try:
            await asyncio.to_thread(self._server.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()
        await self.channel.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _is_serving(self) -> bool:
        check = health_pb2_grpc.HealthStub(self.channel).Check
        try:
            reply = await check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING


# Gloss' own admission decides what is too much; Ray is to hold nothing back before that.
Gloss = serve.deployment(
    Replica,
    name="Gloss",
    max_ongoing_requests=10_000,
    health_check_period_s=5,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=60,
)


def app(settings: dict[str, object]) -> serve.Application:
    """The application; its arguments are the settings of every replica's server."""
    return Gloss.bind(settings)
