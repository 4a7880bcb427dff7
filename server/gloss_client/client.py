"""The client for threads. `async_client.py` is the same for asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_client.call import Answered, BatchCall, Cut
from gloss_client.capture_call import CaptureCall, CaptureOptions
from gloss_client.channel import open_channel
from gloss_client.connection import Connection
from gloss_client.credentials import TlsOptions
from gloss_client.deadline import Deadline
from gloss_client.explain_call import ExplainCall, ExplainOptions
from gloss_client.generation import VerbalizeOptions
from gloss_client.known_limits import KnownLimits
from gloss_client.model_info import ModelInfo
from gloss_client.pauses import Pauses
from gloss_client.piece_streams import PieceStreams
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
from gloss_client.stream import EventStream, ExplanationStream
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
from gloss_client.unary import send_pieces
from gloss_client.verbalize_call import VerbalizeCall
from gloss_client.watch_call import WatchCall, WatchOptions

Result = TypeVar("Result", bound=Answered)


class Client:
    """Calls of a Gloss service. Threads may share one; a forked child makes its own.

    Args:
        address: `host:port`; several IP addresses, with commas or as a sequence; or a gRPC target
            such as `dns:///name:port`. Calls go round all servers that say SERVING.
        tls: how the connection is encrypted; None: plaintext.
        token: bearer token that calls show.
        token_file: file that holds it, read again for every call.
        allow_plaintext_token: send the token although the connection is neither encrypted nor
            local.
        timeout: seconds of a call that states none.
        retry: when calls that found no server, or a full one, are tried again.
        wait_for_ready: calls wait for a server that serves, up to their deadline, where they would
            fail within seconds: for callers that are to sit out a restart.
        max_in_flight: most calls at once of a batch that does not fit into one.

    Raises:
        ConfigError: something that cannot work.
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
        self._channel = open_channel(self._connection)
        self._stub = gloss_pb2_grpc.GlossServiceStub(self._channel)
        self._limits, self._pauses = KnownLimits(), Pauses()

    def verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> VerbalizeResult:
        """Explains activations; a batch of any size.

        Args:
            activations: [n, d_model] of any float type, raw: never normalised.
            options: see VerbalizeOptions.

        Raises:
            GlossClientError: the batch failed as a whole. An item that failed alone carries its
                error in its explanation.
        """
        call = VerbalizeCall.of(activations, stream=False, **options)
        return self._run(call, options.get("timeout"))

    def stream_verbalize(
        self, activations: np.ndarray, **options: Unpack[VerbalizeOptions]
    ) -> ExplanationStream[StreamEvent, StreamSummary]:
        """The same, as an iterator of events: text as it is generated, and finished explanations.

        Raises:
            GlossClientError: the arguments are wrong; what the server says, the iterator raises.
        """
        call = VerbalizeCall.of(activations, stream=True, **options)
        return ExplanationStream(call, self._streams(call, options.get("timeout")))

    def explain(self, text: Text, **options: Unpack[ExplainOptions]) -> ExplainResult:
        """Explains the target's activations at a text's positions; the target runs on the server.

        Args:
            text: a string, token ids, or a chat as `[{"role": "user", "content": ".."}]`.
            options: see ExplainOptions.

        Raises:
            GlossClientError: the text failed as a whole. An activation that failed alone carries
                its error in its explanation.
        """
        call = ExplainCall.of(text, **options)
        with ExplanationStream(call, self._streams(call, options.get("timeout"))) as stream:
            kept = [event for event in stream if not isinstance(event, TextDelta)]
            return call.result(kept, stream.fingerprint, stream.summary)

    def stream_explain(
        self, text: Text, **options: Unpack[ExplainOptions]
    ) -> ExplanationStream[ExplainEvent, StreamSummary]:
        """The same, as an iterator of events: tokens, what was captured, text, explanations.

        Raises:
            GlossClientError: the arguments are wrong; what the server says, the iterator raises.
        """
        call = ExplainCall.of(text, **options)
        return ExplanationStream(call, self._streams(call, options.get("timeout")))

    def watch(
        self, prompt: Text, **options: Unpack[WatchOptions]
    ) -> ExplanationStream[WatchEvent, WatchSummary]:
        """Lets the target go on from a prompt, as an iterator of events: its tokens, and the
        explanations of their activations while it generates.

        Args:
            prompt: in the forms of `explain`.
            options: see WatchOptions. Without a timeout it has 600 seconds, not the client's.

        Raises:
            GlossClientError: the arguments are wrong; what the server says, the iterator raises.
        """
        call = WatchCall.of(prompt, **options)
        return ExplanationStream(call, self._streams(call, call.timeout))

    def capture(self, texts: Sequence[Text], **options: Unpack[CaptureOptions]) -> CaptureResult:
        """Reads the target's activations at the texts' positions; texts in any number.

        Args:
            texts: one or more, each in the forms of `explain`.
            options: see CaptureOptions.

        Raises:
            GlossClientError: the call failed as a whole. Texts that failed alone are among the
                result's failures.
        """
        call = CaptureCall.of(texts, **options)
        with EventStream(call, self._streams(call, options.get("timeout"))) as stream:
            return call.result(list(stream), stream.fingerprint, stream.summary)

    def stream_capture(
        self, texts: Sequence[Text], **options: Unpack[CaptureOptions]
    ) -> EventStream[CaptureEvent, CaptureSummary]:
        """The same, as an iterator of events: rows of activations, and texts that failed.

        Raises:
            GlossClientError: the arguments are wrong; what the server says, the iterator raises.
        """
        call = CaptureCall.of(texts, **options)
        return EventStream(call, self._streams(call, options.get("timeout")))

    def reconstruct(
        self,
        texts: Sequence[str],
        *,
        model: str = "",
        wire_dtype: WireDtype = "float32",
        timeout: float | None = None,
    ) -> ReconstructResult:
        """Turns explanations (without tags) back into activations, [n, d_model].

        Args:
            texts: one or more.
            model: name of the model; empty: the one that is served.
            wire_dtype: element type of the reply on the wire.
            timeout: seconds for everything; None: the client's.

        Raises:
            GlossClientError: the batch failed as a whole.
        """
        call = ReconstructCall(texts=texts, model=model, wire_dtype=wire_dtype)
        return self._run(call, timeout)

    def score(
        self,
        texts: Sequence[str],
        activations: np.ndarray,
        *,
        model: str = "",
        wire_dtype: WireDtype = "float32",
        timeout: float | None = None,
    ) -> ScoreResult:
        """Measures how near each text comes to its activation.

        Args:
            texts: n, without tags.
            activations: [n, d_model] of any float type, raw.
            model: name of the model; empty: the one that is served.
            wire_dtype: element type the activations are sent in.
            timeout: seconds for everything; None: the client's.

        Raises:
            GlossClientError: the batch failed as a whole.
        """
        call = ScoreCall(texts=texts, activations=activations, model=model, wire_dtype=wire_dtype)
        return self._run(call, timeout)

    def model_info(self, *, timeout: float | None = None) -> ModelInfo:
        """What is loaded, and the limits of a call."""
        info = self._model_info(self._connection.deadline(timeout))
        self._limits.info = info
        return info

    def stats(self, *, timeout: float | None = None) -> ServerStats:
        """What a server does at this moment and how fast."""
        deadline = self._connection.deadline(timeout)
        return ServerStats.of(self._one(self._stub.GetStats, pb.GetStatsRequest(), deadline))

    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """serving, not_serving or unknown, from a server of its own connection.

        Args:
            service: name of a service; empty: the server as a whole.
            timeout: seconds; None: the client's.

        Raises:
            NotFound: the server does not know the service.
            GlossClientError: it did not answer.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        deadline = self._connection.deadline(timeout)
        with open_channel(self._connection, for_health=True) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = self._one(stub.Check, request, deadline)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status).lower()

    def close(self) -> None:
        """Ends the connections; calls under way are cancelled, and none begins after it."""
        self._connection.closed.set()
        self._pauses.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: BatchCall[Result], timeout: float | None) -> Result:
        """Sends a batch, in pieces where it has to be."""
        deadline = self._connection.deadline(timeout)
        progress = Progress(self._plan(call, deadline), deadline)
        method = getattr(self._stub, call.method)
        send_pieces(
            progress,
            lambda piece: self._connection.begin(method.future, call.request(piece), deadline),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
        )
        result = call.merge(progress.parts())
        self._limits.answered_by(result.fingerprint)
        return result

    def _streams(self, call: Cut, timeout: float | None) -> PieceStreams:
        """The streams of a call, which begin when the first message is asked for."""
        deadline = self._connection.deadline(timeout)
        method = getattr(self._stub, call.method)
        return PieceStreams(
            lambda: Progress(self._plan(call, deadline), deadline),
            lambda piece: self._connection.begin(method, call.request(piece), deadline),
            lambda ended, piece: self._connection.error(ended, call.request_id(piece), piece.start),
            self._connection.retry,
            self._pauses,
        )

    def _plan(self, call: Cut, deadline: Deadline) -> Plan:
        """One piece where any server takes it; else by the server's limits."""
        info, most = self._limits.info, self._connection.max_in_flight
        load = call.load(info.d_model if info else None)
        if load.fits_one_call():
            return Plan.uncut(load, most)
        if info is None:
            info = self._limits.info = self._model_info(deadline)
            load = call.load(info.d_model)
        return Plan.within(info.limits, load, most)

    def _model_info(self, deadline: Deadline) -> ModelInfo:
        request = pb.GetModelInfoRequest()
        return ModelInfo.of(self._one(self._stub.GetModelInfo, request, deadline))

    def _one(self, method: Any, request: object, deadline: Deadline) -> Any:
        """A single small call."""
        try:
            return self._connection.begin(method, request, deadline)
        except grpc.RpcError as error:
            raise self._connection.error(error) from None
