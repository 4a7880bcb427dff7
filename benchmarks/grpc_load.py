"""A closed loop of gRPC calls, and what it saw: one asyncio thread, the plain stubs.

    python benchmarks/grpc_load.py ADDRESS --calls N --batch N --begin T --seconds S [...]

keeps calls in flight from now on, and prints as JSON what happened between T (of the monotonic
clock) and T + S. `bench_grpc.py` starts it where the client must have a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import grpc
import numpy as np
import uvloop

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc

_DEADLINE_SECONDS = 60.0


@dataclass(kw_only=True)
class CallTimes:
    """One call that ended well, monotonic seconds.

    Attributes:
        began, ended: when it was sent, when its last message was here.
        first_text: when the first message with a delta was here; None for unary calls.
        gaps: between messages with a delta.
        num_messages: of the reply.
        texts: explanations by item_key.
    """

    began: float
    ended: float = 0.0
    first_text: float | None = None
    gaps: list[float] = field(default_factory=list)
    num_messages: int = 1
    texts: dict[int, str] = field(default_factory=dict)


def make_request(
    activations: np.ndarray, first_key: int, seed: int, max_new_tokens: int
) -> pb.VerbalizeRequest:
    """A request for activations with item_keys from `first_key` on.

    Args:
        activations: [n, d_model] float32.
    """
    return pb.VerbalizeRequest(
        activations=pb.Tensor(
            dtype=pb.TENSOR_DTYPE_FLOAT32,
            shape=activations.shape,
            data=activations.astype("<f4").tobytes(),
        ),
        items=[pb.ActivationItem(item_key=first_key + row) for row in range(len(activations))],
        options=pb.GenerationOptions(seed=seed, max_new_tokens=max_new_tokens),
    )


async def keep_in_flight(
    address: str,
    requests: Iterable[pb.VerbalizeRequest],
    num_calls: int,
    is_streamed: bool,
    ramp_seconds: float = 0.0,
) -> list[CallTimes]:
    """Send all requests, `num_calls` of them at any time.

    Args:
        ramp_seconds: over which the first calls are spread, so that they do not end together.

    Raises:
        RuntimeError: an explanation that failed; grpc.aio.AioRpcError: a call that did.
    """
    times: list[CallTimes] = []
    queue: Iterator[pb.VerbalizeRequest] = iter(requests)
    # A connection of its own: channels of one process otherwise share one.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: Any = gloss_pb2_grpc.GlossServiceStub(channel)

        async def caller(number: int) -> None:
            await asyncio.sleep(ramp_seconds * number / num_calls)
            for request in queue:
                times.append(await (_stream if is_streamed else _unary)(stub, request))

        async with asyncio.TaskGroup() as callers:
            for number in range(num_calls):
                callers.create_task(caller(number))
    return times


async def _unary(stub: Any, request: pb.VerbalizeRequest) -> CallTimes:
    times = CallTimes(began=time.monotonic())
    response = await stub.Verbalize(request, timeout=_DEADLINE_SECONDS)
    times.ended = time.monotonic()
    _note(times, request, response.explanations)
    return times


async def _stream(stub: Any, request: pb.VerbalizeRequest) -> CallTimes:
    times = CallTimes(began=time.monotonic(), num_messages=0)
    last = None
    wrapped = pb.StreamVerbalizeRequest(request=request)
    async for message in stub.StreamVerbalize(wrapped, timeout=_DEADLINE_SECONDS):
        times.num_messages += 1
        if message.deltas:
            now = time.monotonic()
            if last is None:
                times.first_text = now
            else:
                times.gaps.append(now - last)
            last = now
        if message.explanations:
            _note(times, request, message.explanations)
    times.ended = time.monotonic()
    return times


def _note(
    times: CallTimes, request: pb.VerbalizeRequest, explanations: Iterable[pb.Explanation]
) -> None:
    for explanation in explanations:
        if explanation.HasField("error"):
            raise RuntimeError(f"an explanation failed: {explanation.error.message}")
        key = request.items[explanation.item_index].item_key
        times.texts[key] = explanation.explanation


def _until(request: pb.VerbalizeRequest, end: float) -> Iterator[pb.VerbalizeRequest]:
    for again in repeat(request):
        if time.monotonic() >= end:
            return
        yield again


async def _cpu_between(begin: float, end: float) -> float:
    """CPU seconds of this process between two moments."""
    await asyncio.sleep(begin - time.monotonic())
    before = time.process_time()
    await asyncio.sleep(end - time.monotonic())
    return time.process_time() - before


async def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    begin, end = arguments.begin, arguments.begin + arguments.seconds
    rows = np.random.default_rng(0).standard_normal((arguments.batch, arguments.width))
    request = make_request(rows, 0, seed=1, max_new_tokens=arguments.max_new_tokens)
    cpu = asyncio.create_task(_cpu_between(begin, end))
    times = await keep_in_flight(
        arguments.address, _until(request, end), arguments.calls, arguments.stream, arguments.ramp
    )
    inside = [call for call in times if begin <= call.ended < end]
    return {
        "cpu_seconds": await cpu,
        "explanations": sum(len(call.texts) for call in inside),
        "messages": sum(call.num_messages for call in inside),
        "call_seconds": [call.ended - call.began for call in inside],
        "first_text_seconds": [c.first_text - c.began for c in inside if c.first_text is not None],
        "gap_seconds": [gap for call in inside for gap in call.gaps],
    }


def main() -> None:
    """Keep calls in flight and print what happened in the window."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--calls", type=int, required=True, help="in flight at any time")
    parser.add_argument("--batch", type=int, required=True, help="activations of a call")
    parser.add_argument("--width", type=int, required=True, help="of an activation")
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--begin", type=float, required=True, help="monotonic seconds")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--ramp", type=float, default=0.0, help="seconds to spread the start over")
    print(json.dumps(uvloop.run(_measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
