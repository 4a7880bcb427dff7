"""The service: what each RPC does. Converts, calls, converts back."""

from __future__ import annotations

import asyncio

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call_error import CallError
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.handlers import Call, Method
from gloss_server.front.model import MAX_REPLY_BYTES
from gloss_server.front.rate_limit import client_of
from gloss_server.front.reading import (
    Limits,
    read_reconstruct,
    read_score,
    read_verbalize,
)
from gloss_server.front.run import Run
from gloss_server.front.stream import StreamCursor
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.writing import reconstruct_response, score_response, verbalize_response
from gloss_server.settings import ServeSettings

MAX_MESSAGES_PER_SECOND = 4000.0
"""Stream messages a front sends at most, over all streams: each costs it 50 to 100 us. Beyond, a
stream's message waits and takes more tokens along: 64 ms of them with 256 streams."""


class GlossService:
    """The RPCs of this version.

    Args:
        settings: limits.
        dispatcher: the way to the engine.
        telemetry: for GetStats.
    """

    def __init__(
        self, settings: ServeSettings, dispatcher: Dispatcher, telemetry: Telemetry
    ) -> None:
        self._settings, self._dispatcher, self._telemetry = settings, dispatcher, telemetry
        self._num_streams = 0

    def methods(self) -> dict[str, Method]:
        """The RPCs by name."""
        return {
            "Verbalize": self.verbalize,
            "StreamVerbalize": self.stream_verbalize,
            "Reconstruct": self.reconstruct,
            "Score": self.score,
            "GetModelInfo": self.get_model_info,
            "GetStats": self.get_stats,
        }

    async def verbalize(self, request: pb.VerbalizeRequest, call: Call) -> pb.VerbalizeResponse:
        """Explain a batch."""
        limits = self._limits()
        call.name(request.request_id)
        wanted = read_verbalize(request, limits)
        with self._dispatcher.verbalizing(
            wanted,
            request_id=request.request_id,
            digest=call.digest() if request.request_id else b"",
            client=client_of(call.peer),
            arrived=call.arrived,
            deadline=call.deadline,
        ) as run:
            call.run = run
            await run.until_ended()
        response = verbalize_response(run, call.request_id, limits.model.info)
        _check_size(response.ByteSize())
        return response

    async def stream_verbalize(self, request: pb.StreamVerbalizeRequest, call: Call) -> None:
        """Explain a batch, with text as it is generated."""
        limits = self._limits()
        call.name(request.request.request_id)
        wanted = read_verbalize(request.request, limits, prefix="request.", streams=True)
        with self._dispatcher.verbalizing(
            wanted,
            request_id=request.request.request_id,
            digest=call.digest() if request.request.request_id else b"",
            client=client_of(call.peer),
            arrived=call.arrived,
            deadline=call.deadline,
        ) as run:
            call.run = run
            self._num_streams += 1
            try:
                await self._stream(run, call, limits)
            finally:
                self._num_streams -= 1

    async def reconstruct(
        self, request: pb.ReconstructRequest, call: Call
    ) -> pb.ReconstructResponse:
        """Turn texts into activations."""
        limits = self._limits()
        call.name("")
        wanted = read_reconstruct(request, limits)
        with self._dispatcher.running_texts(wanted, arrived=call.arrived) as run:
            call.run = run
            await run.until_ended()
        return reconstruct_response(run, limits.model.info, request.dtype)

    async def score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        """Compare texts with activations."""
        limits = self._limits()
        call.name("")
        wanted = read_score(request, limits)
        with self._dispatcher.running_texts(wanted, arrived=call.arrived) as run:
            call.run = run
            await run.until_ended()
        return score_response(run, limits.model.info)

    async def get_model_info(
        self, request: pb.GetModelInfoRequest, call: Call
    ) -> pb.GetModelInfoResponse:
        """What is loaded."""
        return self._dispatcher.served().response(self._settings)

    async def get_stats(self, request: pb.GetStatsRequest, call: Call) -> pb.GetStatsResponse:
        """What the server does; answered in any state."""
        return self._telemetry.stats_response()

    def _limits(self) -> Limits:
        if self._dispatcher.is_draining:
            raise CallError(
                "DRAINING",
                "the server is being shut down and takes no new calls; try another",
                retry_after=0.0,
            )
        return Limits(settings=self._settings, model=self._dispatcher.served())

    async def _stream(self, run: Run, call: Call, limits: Limits) -> None:
        """Write what comes, as it comes, until the run has ended."""
        model = limits.model
        start = pb.StreamStart(
            request_id=call.request_id, fingerprint=model.info.fingerprint, seed=run.seed
        )
        await call.write(pb.StreamVerbalizeResponse(start=start))
        cursor = StreamCursor(run, model.tokenizer)
        async for _ in run.changes():
            messages = cursor.take(model.info)
            for message in messages:
                await call.write(message)
            if run.failure is not None:
                raise run.failure
            if cursor.is_at_end:
                return
            if messages and not run.has_ended:
                await asyncio.sleep(self._num_streams / MAX_MESSAGES_PER_SECOND)


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_REPLY_BYTES:
        raise CallError(
            "REPLY_TOO_LARGE",
            f"activations: the reply has {num_bytes} bytes, expected at most {MAX_REPLY_BYTES}; "
            "send several calls, or use StreamVerbalize",
            "activations",
        )
