"""Calls with a token or without, and files of the clients that have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

ALICE, BOB = "alice-0123456789abcdef", "bob-0123456789abcdef"
TOKENS = f"""
[clients.alice]
token = "{ALICE}"
[clients.bob]
token = "{BOB}"
methods = ["GetStats"]
"""
OURS = "gloss_api.v1.GlossService"
Metadata = Sequence[tuple[str, str]]


def write_tokens(path: Path, text: str = TOKENS) -> Path:
    """A file of clients that nobody else may read, replaced in one step."""
    replacement = path.with_suffix(".new")
    replacement.touch(mode=0o600)
    replacement.write_text(text)
    return replacement.rename(path)


def bearer(token: str | None) -> list[tuple[str, str]]:
    """What a call shows."""
    return [] if token is None else [("authorization", f"Bearer {token}")]


def answer(
    channel: grpc.Channel, method: str, metadata: Metadata, content: bytes = b""
) -> tuple[str, str | None]:
    """The status of a call and its reason.

    Args:
        method: with its service; any, since the call has the form that fits every method.
        content: the request's bytes.
    """
    call = channel.stream_stream(f"/{method}")
    try:
        list(call(iter([content]), metadata=tuple(metadata), timeout=10))
    except grpc.RpcError as error:
        return error.code().name, _reason(error)  # type: ignore[attr-defined]
    return "OK", None


def _reason(error: grpc.RpcError) -> str | None:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in () if status is None else status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            assert info.domain == "gloss"
            return str(info.reason)
    return None
