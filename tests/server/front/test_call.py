"""A call's own state: what it is remembered by."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gloss_server.front.call import Call


class _Context:
    """What a call asks of grpc.aio's."""

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"

    def auth_context(self) -> dict[str, Any]:
        return {}


def _digest(content: bytes, method: str = "Verbalize") -> bytes:
    call = Call(method, _Context(), content, 10.0)  # type: ignore[arg-type]
    return asyncio.run(call.caller("mine")).digest


def test_a_digest_is_of_the_method_and_of_every_byte() -> None:
    small, large = b"sent", bytes(2 << 20)
    for content in (small, large):
        other = content[:-1] + b"x"
        digests = {_digest(content), _digest(other), _digest(content, "StreamVerbalize")}
        assert len(digests) == 3 and _digest(content) in digests


def test_a_call_without_a_name_has_no_digest() -> None:
    call = Call("Verbalize", _Context(), bytes(2 << 20), 10.0)  # type: ignore[arg-type]
    assert asyncio.run(call.caller("")).digest == b""


def test_other_calls_go_on_while_a_large_one_is_hashed() -> None:
    """It takes some 30 ms and more; the loop turns meanwhile."""
    call = Call("Verbalize", _Context(), bytes(64 << 20), 10.0)  # type: ignore[arg-type]

    async def turns() -> int:
        hashing = asyncio.create_task(call.caller("mine"))
        number, began = 0, time.monotonic()
        while not hashing.done():
            assert time.monotonic() - began < 60
            await asyncio.sleep(0.001)
            number += 1
        return number

    assert asyncio.run(turns()) > 2
