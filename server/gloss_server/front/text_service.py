"""What the RPCs that bring text for the target do. Converts, calls, converts back."""

from __future__ import annotations

from contextlib import ExitStack

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.text_request import OpenedText
from gloss_server.front.call import Call
from gloss_server.front.capture_pieces import CapturePieces, Piece
from gloss_server.front.capture_stream import CaptureMessages
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.handlers import Method
from gloss_server.front.model import ServedModel
from gloss_server.front.options import Limits
from gloss_server.front.reading_text import read_capture, read_explain, read_watch
from gloss_server.front.stream_writer import StreamWriter
from gloss_server.front.text_input import most_tokens
from gloss_server.front.text_run import CaptureRun, TextRun
from gloss_server.front.text_stream import ExplainCursor, WatchCursor, opening_messages
from gloss_server.front.writing import stream_start
from gloss_server.settings import ServeSettings


class TextService:
    """Explain, Watch and Capture.

    Args:
        settings: limits.
        dispatcher: the way to the engine.
        streams: writes them.
    """

    def __init__(
        self, settings: ServeSettings, dispatcher: Dispatcher, streams: StreamWriter
    ) -> None:
        self._settings, self._dispatcher, self._streams = settings, dispatcher, streams

    def methods(self) -> dict[str, Method]:
        """The RPCs by name."""
        return {"Explain": self.explain, "Watch": self.watch, "Capture": self.capture}

    async def explain(self, request: pb.ExplainRequest, call: Call) -> None:
        """Explain a text's activations."""
        call.name(request.request_id)
        caller = await call.caller(request.request_id)
        limits = self._limits()
        wanted = read_explain(request, limits)
        model = limits.model
        num_tokens = most_tokens(wanted.input, model.info)
        with self._dispatcher.explaining(wanted, num_tokens, caller) as run:
            call.runs.append(run)
            opened = await run.until_opened()
            start = stream_start(run, call.request_id, model.info)
            first = pb.ExplainResponse(start=start, input_ids=opened.token_ids)
            await self._open(first, opened, call, run, model)
            await self._streams.write(ExplainCursor(run, model), call, model.info)

    async def watch(self, request: pb.WatchRequest, call: Call) -> None:
        """Let the target go on from a prompt, and explain its activations meanwhile."""
        call.name(request.request_id)
        caller = await call.caller(request.request_id)
        limits = self._limits()
        wanted = read_watch(request, limits)
        model = limits.model
        num_tokens = most_tokens(wanted.input, model.info)
        with self._dispatcher.watching(wanted, num_tokens, caller) as run:
            call.runs.append(run)
            opened = await run.until_opened()
            start = stream_start(run, call.request_id, model.info)
            first = pb.WatchResponse(start=start, prompt_ids=opened.token_ids)
            await self._open(first, opened, call, run, model)
            await self._streams.write(WatchCursor(run, model), call, model.info)

    async def capture(self, request: pb.CaptureRequest, call: Call) -> None:
        """Read texts' activations."""
        call.name("")
        caller = await call.caller("")
        limits = self._limits()
        wanted = read_capture(request, limits)
        pieces = CapturePieces(wanted, limits)
        messages = CaptureMessages(wanted, limits.model)
        failures = [error for _, error in pieces.failures]
        capturing = self._dispatcher.capturing(pieces.num_tokens, caller, failures)
        with capturing as permit, ExitStack() as runs:

            def begin(piece: Piece) -> tuple[Piece, CaptureRun]:
                run = runs.enter_context(
                    self._dispatcher.capturing_piece(piece.request, permit, caller)
                )
                call.runs.append(run)
                return piece, run

            for message in messages.failed(pieces.failures):
                await call.write(message)
            ahead = None
            for piece in pieces:
                before, ahead = ahead, begin(piece)
                if before is not None:
                    await _write(*before, messages, call)
            if ahead is not None:
                await _write(*ahead, messages, call)

    async def _open(
        self,
        first: pb.ExplainResponse | pb.WatchResponse,
        opened: OpenedText,
        call: Call,
        run: TextRun,
        model: ServedModel,
    ) -> None:
        """Write what a stream begins with."""
        assert model.target is not None
        messages = opening_messages(first, opened.token_ids, model.target.texts)
        await self._streams.send(messages, call, run)

    def _limits(self) -> Limits:
        return Limits(settings=self._settings, model=self._dispatcher.serving_new_calls())


async def _write(piece: Piece, run: CaptureRun, messages: CaptureMessages, call: Call) -> None:
    """Write a piece's readings as they come, until all have.

    Raises:
        CallError: the run's failure.
    """
    async for _ in run.changes():
        has_ended, failure = run.has_ended, run.failure
        for message in messages.of(run.take(), piece.indices):
            await call.write(message)
        if failure is not None:
            raise failure
        if has_ended:
            return
