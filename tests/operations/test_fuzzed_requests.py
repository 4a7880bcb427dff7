"""Any bytes as a request to a real server: one status of the contract, in time, and no secrets.

Files under corpus/requests/METHOD are seeds and what was found; a new counterexample goes there.
`GLOSS_FUZZ_EXAMPLES=20000 pytest tests/operations/test_fuzzed_requests.py` looks for longer, with
another seed every time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.invariants import check
from support.server_process import ServerProcess
from support.service_calls import reason_of
from support.short_requests import REQUESTS, STREAMS

CORPUS = sorted((Path(__file__).parent / "corpus" / "requests").glob("*/*"))
EXAMPLES = int(os.environ.get("GLOSS_FUZZ_EXAMPLES", "0"))
FUZZED = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CODES = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "ALREADY_EXISTS",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Explanations are short, so that no mutated request takes long."""
    log = tmp_path_factory.mktemp("fuzzed") / "log"
    bounds: dict[str, object] = {"max_new_tokens": 8, "max_watch_tokens": 40}
    with ServerProcess(log, settings=bounds) as server:
        yield server.wait_ready()


@pytest.fixture(autouse=True)
def nothing_is_left(server: ServerProcess) -> Iterator[None]:
    yield
    check(server)


def judge(server: ServerProcess, method: str, content: bytes) -> str:
    """Send bytes; the status, after it was found to be one that a caller may get."""
    path = f"/gloss_api.v1.GlossService/{method}"
    try:
        if method in STREAMS:
            list(server.channel.unary_stream(path)(content, timeout=30))
        else:
            server.channel.unary_unary(path)(content, timeout=30)
    except grpc.RpcError as error:
        code, details = error.code().name, error.details()  # type: ignore[attr-defined]
        assert code in CODES, (code, details)
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        assert status is not None and reason_of(status) != "INTERNAL", details
        assert len(details) < 2000
        for leak in ("Traceback", "Error(", "Exception", "site-packages", ".py"):
            assert leak not in details, details
        return str(code)
    return "OK"


@pytest.mark.parametrize("method", REQUESTS)
def test_what_is_changed_was_valid(server: ServerProcess, method: str) -> None:
    assert judge(server, method, REQUESTS[method].SerializeToString()) == "OK"


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(server: ServerProcess, path: Path) -> None:
    judge(server, path.parent.name, path.read_bytes())


def test_the_corpus_has_every_method() -> None:
    assert {path.parent.name for path in CORPUS} == set(REQUESTS)


@pytest.mark.parametrize("method", REQUESTS)
def test_any_bytes(server: ServerProcess, method: str) -> None:
    @FUZZED
    @given(content=st.binary(max_size=200))
    def fuzz(content: bytes) -> None:
        judge(server, method, content)

    fuzz()


@pytest.mark.parametrize("method", sorted(set(REQUESTS) - {"GetModelInfo", "GetStats"}))
def test_a_request_with_other_bytes(server: ServerProcess, method: str) -> None:
    valid = REQUESTS[method].SerializeToString()
    # The tail holds the fields; the activations at the front are all alike to a parser.
    places = st.integers(0, 40) | st.integers(max(len(valid) - 60, 0), len(valid))

    @FUZZED
    @given(edits=st.lists(st.tuples(places, st.integers(0, 6), st.binary(max_size=6)), min_size=1))
    def fuzz(edits: list[tuple[int, int, bytes]]) -> None:
        content = bytearray(valid)
        for at, length, new in edits[:4]:
            content[at : at + length] = new
        judge(server, method, bytes(content))

    fuzz()
