"""Sends the pieces of a batch and waits for their replies, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from gloss_client.async_channel import CLOSED
from gloss_client.pieces import Piece
from gloss_client.progress import Progress
from gloss_client.unary import ErrorOf


async def send_pieces(
    progress: Progress, send: Callable[[Piece], Awaitable[Any]], error_of: ErrorOf
) -> None:
    """Sends what waits, several pieces at once, until all are answered.

    Raises:
        GlossClientError: one piece failed for good; the others are cancelled.
    """
    running: dict[asyncio.Future[Any], Piece] = {}
    try:
        while True:
            while len(running) < progress.in_flight and (piece := progress.next()) is not None:
                running[asyncio.ensure_future(send(piece))] = piece
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                piece = running.pop(call)
                try:
                    progress.answered(piece, call.result())
                except grpc.aio.AioRpcError as error:
                    progress.refused(piece, error_of(error, piece))
                except asyncio.CancelledError:
                    progress.refused(piece, error_of(CLOSED, piece))
    finally:
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
