"""What holds of a server after any fault: nothing is left, all is counted once, it still answers.

A test of a fault starts a `CheckedServer` where it would start a `ServerProcess`; leaving the
`with` block checks a server that still runs, so no test can forget it. A server that several tests
share is checked after each by an autouse fixture:

    @pytest.fixture(autouse=True)
    def nothing_is_left(server: ServerProcess) -> Iterator[None]:
        with checked(server):
            yield

Every call is counted three times: by its client (`client_calls.py`), by the metrics, and in the
log; all three have to agree on how many calls of a method ended with which code.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import urlopen

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.front.labels import method_name
from support.client_calls import Ends, Tally
from support.server_process import ServerProcess
from support.service_calls import verbalize_request

_ZERO = (
    "gloss_calls_in_flight",
    "gloss_in_flight",
    "gloss_running",
    "gloss_waiting",
    "gloss_waiting_to_score",
    "gloss_kv_pages_used",
    "gloss_reading",
    "gloss_watching",
)
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
Sample = tuple[str, str, float]
"""A line of /metrics: name, labels and value."""
_CALLS = re.compile(r'code="(\w+)",method="(\w+)"')


class CheckedServer(ServerProcess):
    """A server that is checked when its `with` block is left.

    All calls it ever had are those of its channels. One that runs no more has none open.
    """

    def __enter__(self) -> CheckedServer:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                if self.process.poll() is None:
                    check(self)
                else:
                    wait_ended(self)
        finally:
            super().__exit__(*exception)


@contextmanager
def checked(server: ServerProcess) -> Iterator[None]:
    """Check a server that others use as well: of calls, those that were made inside."""
    server.wait_idle(30)
    wait_ended(server)
    before = (counted(samples(server)), server.calls.tally())
    yield
    check(server, before)


@contextmanager
def others(server: ServerProcess) -> Iterator[None]:
    """Let clients call that tell nothing, and nobody else: what they called, the server says."""
    before, told = counted(samples(server)), server.calls.tally()
    yield
    server.wait_idle()
    theirs = counted(samples(server)) - before - server.calls.tally().since(told).answered
    for (_, method), count in theirs.items():
        server.calls.add(method, count)


def check(server: ServerProcess, before: tuple[Ends, Tally] | None = None) -> None:
    """Wait until a server is idle and serves, and hold it to what the module says.

    Args:
        server: running.
        before: what it and its clients had counted when all its calls began to be recorded; None:
            they were from the start.
    """
    wait_ended(server)
    server.wait_for(lambda: server.stats().state == pb.SERVING_STATE_SERVING)
    d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
    server.wait_idle(30)
    row = np.random.default_rng(0).normal(size=(1, d_model))
    request = verbalize_request(row, seed=1, max_new_tokens=3)
    (explanation,) = server.stub.Verbalize(request, timeout=30).explanations
    assert explanation.token_ids and not explanation.HasField("error")
    server.wait_idle(30)
    # The last GetStats is counted when it has ended, and its line is written after that.
    server.wait_for(lambda: _is_settled(server))
    earlier, tally = (Counter(), Tally()) if before is None else before
    problems = server.calls.tally().since(tally).disagreements(counted(samples(server)) - earlier)
    assert not problems, "\n".join(problems)
    assert not server.events("defect") and not server.events("engine_refused")
    assert "\nTraceback" not in f"\n{server.output()}"


def wait_ended(server: ServerProcess, seconds: float = 10) -> None:
    """Wait until no client of a server has a call open."""
    deadline = time.monotonic() + seconds
    while server.calls.num_open:
        assert time.monotonic() < deadline, f"{server.calls.num_open} calls never ended"
        time.sleep(0.01)


def _is_settled(server: ServerProcess) -> bool:
    found = samples(server)
    return not busy(found) and counted(found) == logged(server)


def samples(server: ServerProcess) -> list[Sample]:
    """/metrics."""
    with urlopen(f"http://{server.ports['metrics']}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return [(name, labels, float(value)) for name, labels, value in _SAMPLE.findall(text)]


def busy(found: list[Sample]) -> list[Sample]:
    """The gauges that are not zero although nothing is to be done."""
    gauges = [sample for sample in found if sample[0] in _ZERO]
    assert {name for name, _, _ in gauges} == set(_ZERO), "a gauge is gone"
    return [sample for sample in gauges if sample[2]]


def counted(found: list[Sample]) -> Ends:
    """How many calls of a method ended with a code, as the metrics say."""
    ends: Ends = Counter()
    for name, labels, value in found:
        if name == "gloss_calls_total" and value:
            (key,) = _CALLS.findall(labels)
            ends[key] = int(value)
    return ends


def logged(server: ServerProcess) -> Ends:
    """The same as the log says: a line a call."""
    lines = server.events("call")
    return Counter((line["code"], method_name(line["method"])) for line in lines)
