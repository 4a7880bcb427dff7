"""The service: what each RPC does. Converts, calls, converts back."""

from __future__ import annotations

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.call import Call
from gloss_server.front.call_error import CallError
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.handlers import Method
from gloss_server.front.model import MAX_REPLY_BYTES
from gloss_server.front.options import Limits
from gloss_server.front.reading import read_reconstruct, read_score, read_verbalize
from gloss_server.front.stream import StreamCursor
from gloss_server.front.stream_writer import StreamWriter
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.writing import (
    reconstruct_response,
    score_response,
    stream_start,
    verbalize_response,
)
from gloss_server.settings import ServeSettings


class GlossService:
    """The RPCs of activations, of texts for the AR, and of the server itself.

    Args:
        settings: limits.
        dispatcher: the way to the engine.
        telemetry: for GetStats.
        streams: writes them.
    """

    def __init__(
        self,
        settings: ServeSettings,
        dispatcher: Dispatcher,
        telemetry: Telemetry,
        streams: StreamWriter,
    ) -> None:
        self._settings, self._dispatcher = settings, dispatcher
        self._telemetry, self._streams = telemetry, streams

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
        call.name(request.request_id)
        caller = await call.caller(request.request_id)
        limits = self._limits()
        wanted = read_verbalize(request, limits)
        with self._dispatcher.verbalizing(wanted, caller) as run:
            call.runs.append(run)
            await run.until_ended()
        response = verbalize_response(run, call.request_id, limits.model.info)
        _check_size(response.ByteSize())
        return response

    async def stream_verbalize(self, request: pb.StreamVerbalizeRequest, call: Call) -> None:
        """Explain a batch, with text as it is generated."""
        request_id = request.request.request_id
        call.name(request_id)
        caller = await call.caller(request_id)
        limits = self._limits()
        wanted = read_verbalize(request.request, limits, prefix="request.", streams=True)
        model = limits.model
        with self._dispatcher.verbalizing(wanted, caller) as run:
            call.runs.append(run)
            start = stream_start(run, call.request_id, model.info)
            await self._streams.send([pb.StreamVerbalizeResponse(start=start)], call, run)
            await self._streams.write(StreamCursor(run, model.tokenizer), call, model.info)

    async def reconstruct(
        self, request: pb.ReconstructRequest, call: Call
    ) -> pb.ReconstructResponse:
        """Turn texts into activations."""
        call.name("")
        caller = await call.caller("")
        limits = self._limits()
        wanted = read_reconstruct(request, limits)
        with self._dispatcher.running_texts(wanted, caller) as run:
            call.runs.append(run)
            await run.until_ended()
        return reconstruct_response(run, limits.model.info, request.dtype)

    async def score(self, request: pb.ScoreRequest, call: Call) -> pb.ScoreResponse:
        """Compare texts with activations."""
        call.name("")
        caller = await call.caller("")
        limits = self._limits()
        wanted = read_score(request, limits)
        with self._dispatcher.running_texts(wanted, caller) as run:
            call.runs.append(run)
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
        return Limits(settings=self._settings, model=self._dispatcher.serving_new_calls())


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_REPLY_BYTES:
        raise CallError(
            "REPLY_TOO_LARGE",
            f"activations: the reply has {num_bytes} bytes, expected at most {MAX_REPLY_BYTES}; "
            "send several calls, or use StreamVerbalize",
            "activations",
        )
