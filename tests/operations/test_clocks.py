"""The clock of the wall jumps by hours while calls run: deadlines, times and heartbeats do not.

libfaketime shifts CLOCK_REALTIME of both processes; what is monotonic stays true.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from support.checkpoints import Pair
from support.edits import long_winded
from support.invariants import check, samples
from support.server_process import ServerProcess
from support.service_calls import stream_request, verbalize_request
from support.tools import libfaketime

ROWS = np.random.default_rng(0).normal(size=(2, 72)).astype(np.float32)
LONG = {"temperature": 0.0, "max_new_tokens": 20_000}
Jump = Callable[[str], None]


@pytest.fixture(scope="module")
def offset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how far off the clock is."""
    path = tmp_path_factory.mktemp("clock") / "offset"
    path.write_text("+0\n")
    return path


@pytest.fixture(scope="module")
def server(
    pairs: dict[str, Pair], offset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("jumping")
    av = long_winded(pairs["qwen2"].av, root / "av")
    settings: dict[str, object] = {"max_new_tokens": 20_000, "num_slots": 4}
    clock = {
        "LD_PRELOAD": str(libfaketime()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in clock.items():
            patch.setitem(os.environ, name, value)
        server = ServerProcess(root / "log", {"av": av}, settings)
    with server:
        yield server.wait_ready()


@pytest.fixture
def jump(server: ServerProcess, offset: Path) -> Iterator[Jump]:
    """Shifts the clock; the server is checked under it and again after it was set right."""

    def to(shift: str) -> None:
        other = offset.with_suffix(".new")
        other.write_text(f"{shift}\n")
        other.rename(offset)

    yield to
    check(server)
    to("+0")
    check(server)
    assert not server.events("engine_died")


@pytest.mark.parametrize("shift", ["+5h", "-5h"])
def test_calls_go_on_and_end_in_time(server: ServerProcess, jump: Jump, shift: str) -> None:
    began = time.monotonic()
    running = server.stub.StreamVerbalize(stream_request(ROWS, **LONG), timeout=4)
    next(running)
    jump(shift)
    tokens = 0
    with pytest.raises(grpc.RpcError) as caught:
        for message in running:
            tokens += sum(len(delta.token_ids) for delta in message.deltas)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert tokens and 3.5 < time.monotonic() - began < 15
    # A call that begins under the other clock has its own time, too.
    request = verbalize_request(ROWS[:1], max_new_tokens=20, temperature=0)
    assert server.stub.Verbalize(request, timeout=20).explanations
    server.wait_for(lambda: len(server.events("call")) > 0 and _far(server, shift))
    assert all(0 <= line["seconds"] < 60 for line in server.events("call"))
    for name, _, value in samples(server):
        if name.endswith("_seconds_sum"):
            assert 0 <= value < 600, name


def _far(server: ServerProcess, shift: str) -> bool:
    """Lines of the log say what the clock says."""
    written = datetime.fromisoformat(server.events("call")[-1]["ts"]).timestamp()
    hours = (written - time.time()) / 3600
    return abs(hours - int(shift.rstrip("h"))) < 0.5
