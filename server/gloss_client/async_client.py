"""The client for asyncio. `client.py` is the same for threads, and says what the arguments mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_client.async_piece_streams import AsyncPieceStreams
from gloss_client.async_stream import AsyncExplanationStream
from gloss_client.async_unary import send_pieces
from gloss_client.call import Answered, BatchCall
from gloss_client.connection import Connection
from gloss_client.credentials import TlsOptions
from gloss_client.deadline import Deadline
from gloss_client.generation import VerbalizeOptions
from gloss_client.known_limits import KnownLimits
from gloss_client.model_info import ModelInfo
from gloss_client.pieces import Plan
from gloss_client.progress import Progress
from gloss_client.results import ReconstructResult, ScoreResult, VerbalizeResult
from gloss_client.retry_policy import RetryPolicy
from gloss_client.server_stats import ServerStats
from gloss_client.tensors import WireDtype
from gloss_client.text_calls import ReconstructCall, ScoreCall
from gloss_client.verbalize_call import VerbalizeCall

Result = TypeVar("Result", bound=Answered)


class AsyncClient:
    """Calls of a Gloss service, for the tasks of one event loop.

    Arguments and errors are Client's. The connection is made by the first call, on its loop.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        tls: TlsOptions | None = None,
        token: str | None = None,
        token_file: Path | str | None = None,
        allow_plaintext_token: bool = False,
        timeout: float = 60.0,
        retry: RetryPolicy | None = None,
        wait_for_ready: bool = False,
        max_in_flight: int = 4,
    ) -> None:
        self._connection = Connection.of(
            address,
            tls=tls,
            token=token,
            token_file=token_file,
            allow_plaintext_token=allow_plaintext_token,
            retry=retry,
            wait_for_ready=wait_for_ready,
            timeout=timeout,
            max_in_flight=max_in_flight,
        )
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits = KnownLimits()

    async def verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> VerbalizeResult:
        """Explains activations, [n, d_model]; a batch of any size. See `Client.verbalize`."""
        call = VerbalizeCall.of(activations, stream=False, **options)
        return await self._run(call, options.get("timeout"))

    def stream_verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> AsyncExplanationStream:
        """The same, as an asynchronous iterator of events. See `Client.stream_verbalize`."""
        call = VerbalizeCall.of(activations, stream=True, **options)
        deadline = self._connection.deadline(options.get("timeout"))

        async def begin() -> Progress:
            return Progress(await self._plan(call, deadline), deadline)

        streams = AsyncPieceStreams(
            begin,
            lambda piece: self._stub().StreamVerbalize(
                call.request(piece), **self._connection.call_options(deadline)
            ),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
        )
        return AsyncExplanationStream(call.id, call.options.seed, streams)

    async def reconstruct(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        wire_dtype: WireDtype = "float32",
        timeout: float | None = None,
    ) -> ReconstructResult:
        """Turns explanations back into activations, [n, d_model]. See `Client.reconstruct`."""
        call = ReconstructCall(texts=texts, model=model, wire_dtype=wire_dtype)
        return await self._run(call, timeout)

    async def score(
        self,
        texts: Sequence[str],
        activations: np.ndarray,
        *,
        model: str = "",
        wire_dtype: WireDtype = "float32",
        timeout: float | None = None,
    ) -> ScoreResult:
        """Measures how near each text comes to its activation. See `Client.score`."""
        call = ScoreCall(texts=texts, activations=activations, model=model, wire_dtype=wire_dtype)
        return await self._run(call, timeout)

    async def model_info(self, *, timeout: float | None = None) -> ModelInfo:
        """What is loaded, and the limits of a call."""
        info = await self._model_info(self._connection.deadline(timeout))
        self._limits.info = info
        return info

    async def stats(self, *, timeout: float | None = None) -> ServerStats:
        """What a server does at this moment and how fast."""
        deadline = self._connection.deadline(timeout)
        reply = await self._one(self._stub().GetStats, pb.GetStatsRequest(), deadline)
        return ServerStats.of(reply)

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """serving, not_serving or unknown. See `Client.health`."""
        request = health_pb2.HealthCheckRequest(service=service)
        deadline = self._connection.deadline(timeout)
        async with self._open_channel(self._connection.health_options()) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await self._one(stub.Check, request, deadline)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status).lower()

    async def close(self) -> None:
        """Ends the connections; calls under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _stub(self) -> Any:
        """The service on this loop's connection.

        Raises:
            RuntimeError: the connection belongs to another loop, where gRPC would wait for ever.
        """
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._channel = self._open_channel(self._connection.options())
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this client was first used on another event loop; make one for each loop"
            )
        return gloss_pb2_grpc.GlossServiceStub(self._channel)

    def _open_channel(self, options: list[tuple[str, str | int]]) -> grpc.aio.Channel:
        target, credentials = self._connection.address.target, self._connection.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)

    async def _run(self, call: BatchCall[Result], timeout: float | None) -> Result:
        """Sends a batch, in pieces where it has to be."""
        deadline = self._connection.deadline(timeout)
        progress = Progress(await self._plan(call, deadline), deadline)
        method = getattr(self._stub(), call.method)
        await send_pieces(
            progress,
            lambda piece: method(call.request(piece), **self._connection.call_options(deadline)),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
        )
        result = call.merge(progress.parts())
        self._limits.answered_by(result.fingerprint)
        return result

    async def _plan(self, call: BatchCall[Answered], deadline: Deadline) -> Plan:
        """One piece where any server takes it; else by the server's limits."""
        info, most = self._limits.info, self._connection.max_in_flight
        load = call.load(info.d_model if info else None)
        if load.fits_one_call():
            return Plan.uncut(load, most)
        if info is None:
            info = self._limits.info = await self._model_info(deadline)
            load = call.load(info.d_model)
        return Plan.within(info.limits, load, most)

    async def _model_info(self, deadline: Deadline) -> ModelInfo:
        request = pb.GetModelInfoRequest()
        return ModelInfo.of(await self._one(self._stub().GetModelInfo, request, deadline))

    async def _one(self, method: Any, request: object, deadline: Deadline) -> Any:
        """A single small call."""
        try:
            return await method(request, **self._connection.call_options(deadline))
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from None
