"""The device runs out of memory under load: what does not fit fails, the server lives.

The failure is injected at the allocator of the engine's process (`support/tight_engine.py`), with
everything else as it is served. tests/engine/test_out_of_memory_gpu.py fills a GPU for real.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from support.invariants import CheckedServer, check
from support.server_process import ServerProcess
from support.service_calls import fault, pushback_ms, reason_of, stream_request, verbalize_request
from support.text_calls import (
    STORY,
    Captured,
    Told,
    capture_request,
    explain_request,
    sliced,
    tokens,
    watch_request,
)
from support.tight_engine import MARK, MARKED

COMMAND = (sys.executable, "-m", "support.serve_with_worker", "support.tight_worker")
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
BAD = 2
"""The row that there is no memory for."""


@pytest.fixture(scope="module", params=["auto", "off"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """As on a GPU, and as on a CPU."""
    log = tmp_path_factory.mktemp("tight") / "log"
    with CheckedServer(log, settings={"graphs": request.param}, command=COMMAND) as server:
        yield server.wait_ready()


@pytest.fixture
def server(running: ServerProcess) -> Iterator[ServerProcess]:
    yield running
    check(running)


def _rows(marked: bool) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((6, 128)).astype(np.float32)
    rows[BAD] *= 1e7 if marked else 1
    return rows


def _verbalize(server: ServerProcess, marked: bool) -> dict[Any, Any]:
    request = verbalize_request(_rows(marked), seed=1, num_samples=2, max_new_tokens=20)
    return _by_sample(server.stub.Verbalize(request, timeout=60).explanations)


def _stream(server: ServerProcess, marked: bool) -> dict[Any, Any]:
    request = stream_request(_rows(marked), seed=2, max_new_tokens=20)
    return _by_sample(
        explanation
        for message in server.stub.StreamVerbalize(request, timeout=60)
        for explanation in message.explanations
    )


def _by_sample(explanations: Any) -> dict[Any, Any]:
    return {(e.item_index, e.sample_index): e for e in explanations}


def _explain(server: ServerProcess) -> list[list[int]]:
    request = explain_request(STORY, seed=3, max_new_tokens=12, positions=sliced(start=-4))
    told = Told.by(server.stub.Explain(request, timeout=60))
    return [list(e.token_ids) for e in told.in_order()]


def _watch(server: ServerProcess, seed: int) -> list[int]:
    request = watch_request(
        STORY,
        target_options={"max_new_tokens": 16, "seed": seed},
        options={"max_new_tokens": 8, "seed": 4},
        every=4,
    )
    return [token.token_id for token in Told.by(server.stub.Watch(request, timeout=60)).said]


def _capture(server: ServerProcess) -> Captured:
    inputs = (STORY, tokens([MARK] * 30), "Leo waits.", tokens([MARK, MARK, 5]))
    return Captured.by(server.stub.Capture(capture_request(*inputs), timeout=60))


def _score(server: ServerProcess, texts: list[str]) -> list[Any]:
    rows = np.ones((len(texts), 128), np.float32)
    request = pb.ScoreRequest(texts=texts, activations=verbalize_request(rows).activations)
    return list(server.stub.Score(request, timeout=60).results)


def _code_of(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert pushback_ms(caught.value) == 1000
    return fault(caught.value)[:2]


def _check(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, explanation in found.items():
        if key[0] == BAD:
            assert explanation.error.code == EXHAUSTED
            assert reason_of(explanation.error) == "OUT_OF_MEMORY"
            assert explanation.finish_reason == pb.FINISH_REASON_ERROR
        else:
            assert explanation.token_ids == expected[key].token_ids
            assert explanation.evidence.HasField("cosine")


def _metric(server: ServerProcess, name: str) -> float:
    with urlopen(f"http://{server.ports['metrics']}/metrics") as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(name + " ")))


def test_what_does_not_fit_fails_and_the_rest_goes_on(server: ServerProcess) -> None:
    """All kinds of work at once: neighbours have to the token what they have without."""
    engine, pool = server.engine_pid, ThreadPoolExecutor(12)
    plain, streamed = _verbalize(server, False), _stream(server, False)
    explained, watched = _explain(server), _watch(server, 5)
    before = _metric(server, "gloss_out_of_memory_total")
    # A prompt is read apart from other texts.
    prompt = watch_request(tokens([MARK] * 40))
    lost = pool.submit(_code_of, lambda: list(server.stub.Watch(prompt, timeout=60)))
    neighbours = [pool.submit(_explain, server) for _ in range(2)]
    watches = [pool.submit(_watch, server, 5) for _ in range(2)]
    mixed = [pool.submit(_verbalize, server, True), pool.submit(_stream, server, True)]
    captured = pool.submit(_capture, server)
    assert [call.result() for call in neighbours] == [explained] * 2
    assert [call.result() for call in watches] == [watched] * 2
    for call, expected in zip(mixed, (plain, streamed), strict=True):
        _check(call.result(), expected)
    _check_captured(captured.result())
    assert lost.result() == OUT_OF_MEMORY
    # What shares a half with them would fail with them, so these have no neighbours of their kind.
    text = explain_request(tokens([MARK] * 9))
    lost = pool.submit(_code_of, lambda: list(server.stub.Explain(text, timeout=60)))
    generating = pool.submit(_code_of, lambda: _watch(server, MARK))
    _check(_verbalize(server, True), plain)
    assert lost.result() == generating.result() == OUT_OF_MEMORY
    server.wait_idle()
    assert server.engine_pid == engine and not server.events("engine_died")
    assert _metric(server, "gloss_out_of_memory_total") > before + 5
    again = _verbalize(server, False)
    assert {k: e.token_ids for k, e in again.items()} == {k: e.token_ids for k, e in plain.items()}
    pool.shutdown()


def test_texts_of_the_ar_that_do_not_fit(server: ServerProcess) -> None:
    """A batch runs by halves: the marked text and who shares its half fail, the others do not."""
    texts = ["He waits.", "He eats.", "He is tired.", "He lives in a village."]
    expected = _score(server, texts)
    found = _score(server, [*texts, MARKED])
    for got in found[3:]:
        assert (got.error.code, reason_of(got.error)) == (EXHAUSTED, "OUT_OF_MEMORY")
    for got, wanted in zip(found[:3], expected, strict=False):
        assert got.cosine == pytest.approx(wanted.cosine, abs=1e-4)
    server.wait_idle()


def _check_captured(captured: Captured) -> None:
    """Texts that shared a half with a marked one may fail with it."""
    assert {1, 3} <= captured.failures.keys() <= {0, 1, 2, 3}
    for error in captured.failures.values():
        assert (error.code, reason_of(error)) == (EXHAUSTED, "OUT_OF_MEMORY")
    read = {index for index, _ in captured.places()}
    assert read == {0, 1, 2, 3} - captured.failures.keys()


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    command = (*COMMAND[:-1], "support.full_worker")
    with ServerProcess(tmp_path / "log", command=command) as server:
        assert server.process.wait(60) == 1
        said = server.output().splitlines()[-1]
        assert "EngineLost: device memory: it does not suffice for the steps' graphs" in said
        assert "lower memory_fraction" in said and not server.events("engine_died")
