"""`gloss verbalize` by a server: the rows of --local, and what becomes of a run whose server fails.

The real server runs the embedded pair; a made-up one fails when it is told to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.commands.verbalize.command import verbalize as run_verbalize
from gloss_server.embedded import embedded_pair
from gloss_server.sources.connection_options import ConnectionOptions
from gloss_server.sources.service_explainer import ServiceExplainer
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress
from support.command_process import end, start_gloss, wait_until
from support.command_runs import Command, Ended, in_order, read_rows
from support.echo_server import EchoServer, echo_server
from support.echo_service import EchoService, Fault
from support.server_process import ServerProcess

BAD_ROWS = (5, 35)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded pair, served. Left idle."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, settings={"num_slots": 32}) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 activations of the embedded pair's width; rows 5 and 35 are bad."""
    table = pq.read_table(embedded_pair().activations, columns=["activation_vector"])
    rows = np.array(table["activation_vector"].to_pylist()[:40], dtype=np.float32)
    rows[5] = 0
    rows[35, 3] = np.nan
    path = tmp_path_factory.mktemp("shipped") / "shipped.npy"
    np.save(path, rows)
    return path


@pytest.fixture(scope="module")
def local_rows(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What --local makes of them, two samples each."""
    directory = tmp_path_factory.mktemp("local")
    arguments = ["verbalize", shipped, "--local", "--samples", 2, "--seed", 7]
    process = start_gloss([*arguments, "--output", directory / "out.jsonl"], directory / "log")
    assert end(process) == 3
    return in_order(read_rows(directory / "out.jsonl"))


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Whether rows agree: all but float32 sums over other batches exactly."""
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert list(row) == list(other)
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[key], abs=1e-3), key
            else:
                assert value == other[key], (row["index"], key)
    return True


def ask(gloss: Command, address: str, file: Path, output: Path, *more: object) -> Ended:
    return gloss(
        *("verbalize", file, "--address", address, "--samples", 2, "--seed", 7),
        *("--output", output, *more),
    )


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_rows_are_those_of_local(
    gloss: Command,
    server: ServerProcess,
    shipped: Path,
    local_rows: list[Any],
    tmp_path: Path,
    name: str,
) -> None:
    out = tmp_path / name
    ended = ask(gloss, server.address, shipped, out)
    assert ended.status == 3 and "4 of them failed" in ended.stderr
    rows = in_order(read_rows(out)) if name == "out.jsonl" else pq.read_table(out).to_pylist()
    # The messages of rows that failed are among what must be equal.
    assert same(rows, local_rows)
    assert {row["index"] for row in rows if row["error"] is not None} == set(BAD_ROWS)
    assert all(row["fve"] is not None for row in rows if row["error"] is None)
    values = [row["fve"] for row in rows if row["fve"] is not None]
    said = f"mean FVE {np.mean(values):.3f} of {len(values)} scored"
    assert said in ended.stderr
    again = ask(gloss, server.address, shipped, out)
    assert said in again.stderr, "of all rows that the output holds"
    assert again.status == 3 and "nothing to do" in again.stderr


def test_chunks_and_gaps_change_nothing(
    gloss: Command, server: ServerProcess, shipped: Path, local_rows: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    options = VerbalizeOptions(file=shipped, output=out, samples=2, seed=7)
    run_verbalize(
        options, ServiceExplainer(server.address, ConnectionOptions()), RunProgress(), chunk_rows=3
    )
    assert same(in_order(read_rows(out)), local_rows)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(line for number, line in enumerate(lines) if number % 7 != 4)[:-9])
    assert ask(gloss, server.address, shipped, out).status == 3
    assert same(in_order(read_rows(out)), local_rows)


def test_killed_and_continued(
    gloss: Command, server: ServerProcess, local_rows: list[Any], shipped: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many.npy"
    np.save(many, np.tile(np.load(shipped), (4, 1)))
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    arguments = ["verbalize", many, "--address", server.address, "--samples", 2, "--seed", 7]
    process = start_gloss([*arguments, "--output", out], log)
    wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 64, process)
    process.kill()
    assert end(process) == -signal.SIGKILL and len(out.read_bytes().splitlines()) < 320
    server.wait_idle()
    assert ask(gloss, server.address, many, out).status == 3
    rows = in_order(read_rows(out))
    # The draws are those of the file's row: the first 40 rows are those of the short file.
    assert len(rows) == 320 and same(rows[:80], local_rows)


def test_an_engine_that_dies_is_waited_for(
    server: ServerProcess, local_rows: list[Any], shipped: Path, tmp_path: Path
) -> None:
    out, before = tmp_path / "out.jsonl", server.stats().engine_restarts
    arguments = ["verbalize", shipped, "--address", server.address, "--samples", 2, "--seed", 7]
    process = start_gloss([*arguments, "--output", out], tmp_path / "log")
    wait_until(lambda: server.stats().running > 0, process)
    os.kill(server.engine_pid, signal.SIGKILL)
    assert end(process) == 3
    assert server.stats().engine_restarts == before + 1
    assert same(in_order(read_rows(out)), local_rows)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layer", 3], "LAYER_MISMATCH"),
        (["--max-new-tokens", 201], "TOO_MANY_TOKENS"),
        (["--samples", 65], "INVALID_SAMPLES"),
        (["--temperature", -1], "temperature: got -1.0"),
    ],
)
def test_what_the_server_refuses_writes_nothing(
    gloss: Command,
    server: ServerProcess,
    shipped: Path,
    tmp_path: Path,
    more: list[object],
    said: str,
) -> None:
    ended = ask(gloss, server.address, shipped, tmp_path / "out.jsonl", *more)
    assert ended.status == 2 and said in ended.error
    assert list(tmp_path.iterdir()) == []
    # The probe is a row of zeros: nothing was generated for it.
    assert server.stats().running == 0


def test_another_width(gloss: Command, server: ServerProcess, npy: Path, tmp_path: Path) -> None:
    error = ask(gloss, server.address, npy, tmp_path / "out.jsonl").error
    assert "got activations of width 72, expected" in error and "embedded" in error


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


@pytest.fixture
def rows_of_8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 activations for the made-up server: seven chunks."""
    path = tmp_path_factory.mktemp("echo") / "rows.npy"
    np.save(path, np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32))
    return path


def test_several_requests_are_in_flight(
    gloss: Command, echo: EchoServer, rows_of_8: Path, tmp_path: Path
) -> None:
    echo.service.step_seconds = 0.1
    assert ask(gloss, echo.address, rows_of_8, tmp_path / "out.jsonl").status == 0
    assert echo.service.most_in_flight == 7
    keys = [
        item.item_key
        for call in echo.service.received
        if call.method == "Verbalize"
        for item in call.request.items
    ]
    # The probe's row and the file's.
    assert sorted(keys) == [0, *range(200)]


def test_a_file_goes_behind_those_whom_somebody_waits_for(
    gloss: Command, echo: EchoServer, rows_of_8: Path, tmp_path: Path
) -> None:
    assert ask(gloss, echo.address, rows_of_8, tmp_path / "out.jsonl").status == 0
    asked = [call.request for call in echo.service.received if call.method == "Verbalize"]
    assert len(asked) == 8 and {one.priority for one in asked} == {pb.PRIORITY_BATCH}


def test_half_of_the_queue_is_left_to_others(
    gloss: Command, echo: EchoServer, rows_of_8: Path, tmp_path: Path
) -> None:
    echo.service.limits.max_queued_explanations = 256
    echo.service.step_seconds = 0.05
    assert ask(gloss, echo.address, rows_of_8, tmp_path / "out.jsonl").status == 0
    assert echo.service.most_in_flight == 2, "of 64 explanations each"


def test_a_full_server_is_waited_for(
    gloss: Command, echo: EchoServer, rows_of_8: Path, tmp_path: Path
) -> None:
    # More refusals of each of the seven requests than gRPC tries again by itself.
    full = Fault(code=EXHAUSTED, reason="QUEUE_FULL", retry_after=0.02, pushback_ms=1)
    # GetStats, and the call that tries.
    echo.service.faults.extend([None, None, *[full] * 60])
    assert ask(gloss, echo.address, rows_of_8, tmp_path / "out.jsonl").status == 0
    assert not echo.service.faults and len(read_rows(tmp_path / "out.jsonl")) == 400


def test_a_lost_server_is_said_and_the_same_command_continues(
    gloss: Command, rows_of_8: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    with echo_server(EchoService(step_seconds=0.2)) as running:
        address, port = running.address, int(running.address.rpartition(":")[2])
        running.service.limits.max_queued_explanations = 256
        arguments = ["verbalize", rows_of_8, "--address", address, "--samples", 2, "--seed", 7]
        process = start_gloss([*arguments, "--output", out], log)
        wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 64, process)
    assert end(process) == 1
    (line,) = log.read_text().splitlines()
    held = len(read_rows(out))
    assert line.startswith("error: ") and address in line and 64 <= held < 400
    assert f"{held} of 400 explanations written; the same command continues" in line
    assert ask(gloss, address, rows_of_8, out).status == 1, "still gone"
    with echo_server(port=port):
        assert ask(gloss, address, rows_of_8, out).status == 0
    assert [(row["index"], row["sample"]) for row in in_order(read_rows(out))] == [
        (index, sample) for index in range(200) for sample in range(2)
    ]


def test_other_checkpoints_behind_the_address(
    gloss: Command, echo: EchoServer, rows_of_8: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert ask(gloss, echo.address, rows_of_8, out).status == 0
    out.write_bytes(out.read_bytes()[:-1])
    echo.service.fingerprint = "echo-1"
    ended = ask(gloss, echo.address, rows_of_8, out)
    assert ended.status == 2
    assert "the service's fingerprint was echo-0, now echo-1" in ended.error


def test_an_interrupt_ends_it_at_once(echo: EchoServer, rows_of_8: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    arguments = ["verbalize", rows_of_8, "--address", echo.address, "--output", out]
    echo.service.step_seconds = 0.5
    process = start_gloss(arguments, log)
    # The probe ends after its half second; all that comes behind it would take a minute.
    wait_until(lambda: echo.service.methods().count("Verbalize") == 1, process)
    echo.service.step_seconds = 60
    wait_until(lambda: echo.service.methods().count("Verbalize") == 8, process)
    assert process.pid is not None
    started = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    assert end(process) == 130 and time.monotonic() - started < 5
    (line,) = log.read_text().splitlines()
    assert "the same command continues" in line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--address", "x:1", "--device", "cpu"], "--device without --local"),
        (["--av", "d", "--fve-baseline", "1"], "--av, --fve-baseline without --local"),
        (["--local", "--address", "x:1"], "--address with --local"),
        (["--local", "--token-file", "t"], "--token-file with --local"),
        (["--address", "nonsense"], "cannot connect: address: got 'nonsense'"),
        (["--token-file", "none"], "cannot connect: token_file: cannot read none"),
        (["--tls-ca", "none"], "cannot connect: tls: ca_file: cannot read none"),
        (["--tls-cert", "c"], "cannot connect: tls: cert_file and key_file belong together"),
        (["--local", "--tls", "--tls-server-name", "x"], "--tls, --tls-server-name with --local"),
    ],
)
def test_options_that_do_not_go_together(
    gloss: Command, npy: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    ended = gloss("verbalize", npy, "--output", tmp_path / "out.jsonl", *options)
    assert ended.status == 2 and said in ended.error
    assert list(tmp_path.iterdir()) == []


def test_no_torch_is_loaded_for_it(npy: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from gloss_server.cli.app import run\n"
        "print(run(sys.argv[1:]), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    arguments = ["verbalize", str(npy), "--address", "127.0.0.1:1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--output", str(tmp_path / "out.jsonl")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "1 False False\n"
    assert "gloss serve" in ended.stderr and "--local" in ended.stderr
