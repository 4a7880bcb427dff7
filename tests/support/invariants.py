"""What holds of a server after any fault: nothing is left, all is counted once, it still answers.

A test of a fault starts a `CheckedServer` where it would start a `ServerProcess`; leaving the
`with` block checks a server that still runs, so no test can forget it. A server that several tests
share is checked after each by an autouse fixture that calls `check`:

    @pytest.fixture(autouse=True)
    def nothing_is_left(server: ServerProcess) -> Iterator[None]:
        yield
        check(server)
"""

from __future__ import annotations

import re
from collections import Counter
from urllib.request import urlopen

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
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
_CALLS = re.compile(r'code="(\w+)",method="(\w+)"')


class CheckedServer(ServerProcess):
    """A server that is checked when its `with` block is left, if it still runs then."""

    def __enter__(self) -> CheckedServer:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None and self.process.poll() is None:
                check(self)
        finally:
            super().__exit__(*exception)


def check(server: ServerProcess, seconds: float = 30) -> None:
    """Wait until a server is idle and serves, and hold it to what the module says."""
    server.wait_for(lambda: server.stats().state == pb.SERVING_STATE_SERVING, seconds)
    server.wait_idle(seconds)
    d_model = server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).d_model
    row = np.random.default_rng(0).normal(size=(1, d_model))
    request = verbalize_request(row, seed=1, max_new_tokens=3)
    (explanation,) = server.stub.Verbalize(request, timeout=30).explanations
    assert explanation.token_ids and not explanation.HasField("error")
    server.wait_idle(seconds)
    # The last GetStats is counted when it has ended, and its line is written after that.
    server.wait_for(lambda: not busy(server), seconds)
    server.wait_for(lambda: counted(server) == logged(server), seconds)
    assert not server.events("defect") and not server.events("engine_refused")
    assert not [line for line in server.output().splitlines() if line.startswith("Traceback")]


def samples(server: ServerProcess) -> list[tuple[str, str, float]]:
    """/metrics: name, labels and value of each sample."""
    with urlopen(f"http://{server.ports['metrics']}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return [(name, labels, float(value)) for name, labels, value in _SAMPLE.findall(text)]


def busy(server: ServerProcess) -> list[tuple[str, str, float]]:
    """The gauges that are not zero although nothing is to be done."""
    gauges = [sample for sample in samples(server) if sample[0] in _ZERO]
    assert {name for name, _, _ in gauges} == set(_ZERO), "a gauge is gone"
    return [sample for sample in gauges if sample[2]]


def counted(server: ServerProcess) -> Counter[tuple[str, str]]:
    """How many calls of a method ended with a code, as the metrics say."""
    found: Counter[tuple[str, str]] = Counter()
    for name, labels, value in samples(server):
        if name == "gloss_calls_total" and value:
            (key,) = _CALLS.findall(labels)
            found[key] = int(value)
    return found


def logged(server: ServerProcess) -> Counter[tuple[str, str]]:
    """The same as the log says: a line a call."""
    return Counter((line["code"], line["method"]) for line in server.events("call"))
