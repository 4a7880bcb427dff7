"""Sends the pieces of a batch and waits for their replies, without threads of its own."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import grpc

from gloss_client.errors import GlossClientError
from gloss_client.pieces import Piece
from gloss_client.progress import Progress
from gloss_client.status import EndedCall

Send = Callable[[Piece], Any]
ErrorOf = Callable[[EndedCall, Piece], GlossClientError]


def send_pieces(progress: Progress, send: Send, error_of: ErrorOf) -> None:
    """Sends what waits, several pieces at once, until all are answered.

    Raises:
        GlossClientError: one piece failed for good; the others are cancelled.
    """
    done: queue.SimpleQueue[tuple[Piece, Any]] = queue.SimpleQueue()
    running: dict[Piece, Any] = {}
    try:
        while True:
            while len(running) < progress.in_flight and (piece := progress.next()) is not None:
                call = send(piece)
                running[piece] = call
                call.add_done_callback(lambda call, piece=piece: done.put((piece, call)))
            if not running:
                return
            piece, call = done.get()
            del running[piece]
            if call.code() is grpc.StatusCode.OK:
                progress.answered(piece, call.result())
            else:
                progress.refused(piece, error_of(call, piece))
    finally:
        for call in running.values():
            call.cancel()
