"""The client for asyncio. `client.py` is the same for threads, and says what the arguments mean."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.async_channel import CLOSED, AsyncChannel, is_cancelled
from gloss_client.async_pauses import AsyncPauses
from gloss_client.async_piece_streams import AsyncPieceStreams
from gloss_client.async_stream import AsyncEventStream, AsyncExplanationStream
from gloss_client.async_unary import send_pieces
from gloss_client.call import Answered, BatchCall, Cut
from gloss_client.capture_call import CaptureCall, CaptureOptions
from gloss_client.channel import open_async_channel
from gloss_client.connection import Connection
from gloss_client.credentials import TlsOptions
from gloss_client.deadline import Deadline
from gloss_client.explain_call import ExplainCall, ExplainOptions
from gloss_client.generation import VerbalizeOptions
from gloss_client.known_limits import KnownLimits
from gloss_client.model_info import ModelInfo
from gloss_client.pieces import Plan
from gloss_client.progress import Progress
from gloss_client.results import (
    ReconstructResult,
    ScoreResult,
    StreamEvent,
    StreamSummary,
    TextDelta,
    VerbalizeResult,
)
from gloss_client.retry_policy import RetryPolicy
from gloss_client.server_stats import ServerStats
from gloss_client.tensors import WireDtype
from gloss_client.text_calls import ReconstructCall, ScoreCall
from gloss_client.text_input import Text
from gloss_client.text_results import (
    CaptureEvent,
    CaptureResult,
    CaptureSummary,
    ExplainEvent,
    ExplainResult,
    WatchEvent,
    WatchSummary,
)
from gloss_client.verbalize_call import VerbalizeCall
from gloss_client.watch_call import WatchCall, WatchOptions

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
        self._channel = AsyncChannel(self._connection)
        self._limits, self._pauses = KnownLimits(), AsyncPauses()

    async def verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> VerbalizeResult:
        """Explains activations, [n, d_model]; a batch of any size. See `Client.verbalize`."""
        call = VerbalizeCall.of(activations, stream=False, **options)
        return await self._run(call, options.get("timeout"))

    def stream_verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> AsyncExplanationStream[StreamEvent, StreamSummary]:
        """The same, as an asynchronous iterator of events. See `Client.stream_verbalize`."""
        call = VerbalizeCall.of(activations, stream=True, **options)
        return AsyncExplanationStream(call, self._streams(call, options.get("timeout")))

    async def explain(self, text: Text, **options: Unpack[ExplainOptions]) -> ExplainResult:
        """Explains the target's activations at a text's positions. See `Client.explain`."""
        call = ExplainCall.of(text, **options)
        streams = self._streams(call, options.get("timeout"))
        async with AsyncExplanationStream(call, streams) as stream:
            kept = [event async for event in stream if not isinstance(event, TextDelta)]
            return call.result(kept, stream.fingerprint, stream.summary)

    def stream_explain(
        self, text: Text, **options: Unpack[ExplainOptions]
    ) -> AsyncExplanationStream[ExplainEvent, StreamSummary]:
        """The same, as an asynchronous iterator of events. See `Client.stream_explain`."""
        call = ExplainCall.of(text, **options)
        return AsyncExplanationStream(call, self._streams(call, options.get("timeout")))

    def watch(
        self, prompt: Text, **options: Unpack[WatchOptions]
    ) -> AsyncExplanationStream[WatchEvent, WatchSummary]:
        """Lets the target go on from a prompt, as an asynchronous iterator. See `Client.watch`."""
        call = WatchCall.of(prompt, **options)
        return AsyncExplanationStream(call, self._streams(call, call.timeout))

    async def capture(
        self, texts: Sequence[Text], **options: Unpack[CaptureOptions]
    ) -> CaptureResult:
        """Reads the target's activations at the texts' positions. See `Client.capture`."""
        call = CaptureCall.of(texts, **options)
        async with AsyncEventStream(call, self._streams(call, options.get("timeout"))) as stream:
            events = [event async for event in stream]
            return call.result(events, stream.fingerprint, stream.summary)

    def stream_capture(
        self, texts: Sequence[Text], **options: Unpack[CaptureOptions]
    ) -> AsyncEventStream[CaptureEvent, CaptureSummary]:
        """The same, as an asynchronous iterator of events. See `Client.stream_capture`."""
        call = CaptureCall.of(texts, **options)
        return AsyncEventStream(call, self._streams(call, options.get("timeout")))

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
        reply = await self._one(self._channel.stub().GetStats, pb.GetStatsRequest(), deadline)
        return ServerStats.of(reply)

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """serving, not_serving or unknown. See `Client.health`."""
        request = health_pb2.HealthCheckRequest(service=service)
        deadline = self._connection.deadline(timeout)
        async with open_async_channel(self._connection, for_health=True) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = await self._one(stub.Check, request, deadline)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status).lower()

    def with_token(self, token: str) -> Self:
        """A client that shows this token, on the same connection, which ends with either.

        Raises:
            ConfigError: no token, or one that the connection would show to the network.
        """
        client = copy.copy(self)
        client._connection = self._connection.with_token(token)
        return client

    async def close(self) -> None:
        """Ends the connections; calls under way are cancelled, and none begins after it."""
        self._pauses.close()
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

    async def _run(self, call: BatchCall[Result], timeout: float | None) -> Result:
        """Sends a batch, in pieces where it has to be."""
        deadline = self._connection.deadline(timeout)
        progress = Progress(await self._plan(call, deadline), deadline)
        method = getattr(self._channel.stub(), call.method)
        await send_pieces(
            progress,
            lambda piece: self._connection.begin(method, call.request(piece), deadline),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
        )
        result = call.merge(progress.parts())
        self._limits.answered_by(result.fingerprint)
        return result

    def _streams(self, call: Cut, timeout: float | None) -> AsyncPieceStreams:
        """The streams of a call, which begin when the first message is asked for."""
        deadline = self._connection.deadline(timeout)

        async def begin() -> Progress:
            return Progress(await self._plan(call, deadline), deadline)

        return AsyncPieceStreams(
            begin,
            lambda piece: self._connection.begin(
                getattr(self._channel.stub(), call.method), call.request(piece), deadline
            ),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
            self._connection.retry,
            self._pauses,
        )

    async def _plan(self, call: Cut, deadline: Deadline) -> Plan:
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
        return ModelInfo.of(await self._one(self._channel.stub().GetModelInfo, request, deadline))

    async def _one(self, method: Any, request: object, deadline: Deadline) -> Any:
        """A single small call."""
        try:
            return await self._connection.begin(method, request, deadline)
        except grpc.aio.AioRpcError as error:
            raise self._connection.error(error) from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise self._connection.error(CLOSED) from None
