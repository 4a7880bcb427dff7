"""Names that somebody chose to do harm, through all that a live server and the commands say of it.

They are text: no terminal obeys them, no line of the log ends with them, no template or format is
filled in, no series of the metrics is made for them, and however long they are, what is said of
them is short.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_server.embedded import embedded_pair
from gloss_server.terminal import visible
from support.certificates import Certificates, write
from support.command_runs import Command, read_rows
from support.invariants import check, others, samples
from support.raw_http2 import RawConnection
from support.server_process import ServerProcess
from support.service_calls import fault, tensor, verbalize_request
from support.token_calls import ALICE, OURS

OBEYED = "\x1b]0;pwned\x07\x1b[2J\u202e\r\n"
"""What terminals obey: a title, an empty screen, text from right to left, a line's end."""
FILLED_IN = "{{7*7}}${HOME}$(id)`id`%s%n\"'\\"
FORGED = '"}\n{"event": "call", "code": "OK", "method": "GetStats"}\n'
MEGABYTE = "e" + "\u0301" * 524_288
"""One letter with its accents."""
NAMES = (OBEYED, FILLED_IN, FORGED, MEGABYTE, "\0\x85\u2028\u2029", "<script>alert(1)</script>")
DIRECTORY = f"av{OBEYED}{FILLED_IN}{FORGED}"
MODEL = visible(DIRECTORY)[:128]
GRPC = re.compile(
    r"E\d{4} [\d:. ]+ hpack_parser.cc:\d+\] Error parsing '[a-z-]+' metadata: [a-z ]+"
)
"""What gRPC itself says of headers that it cannot read: nothing of what stands in them."""
HEADERS = (
    (b"user-agent", OBEYED.encode()),
    (b"x-\x1b[2J", b"value"),
    (b"x-forwarded-for", FORGED.encode()),
    (b"traceparent", FORGED.encode()),
    (b"authorization", OBEYED.encode()),
    (b"grpc-timeout", b"1\x1b[2JS"),
    (b"grpc-encoding", OBEYED.encode()),
    (b"content-type", OBEYED.encode()),
)
ROWS = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
SHORT = {"max_new_tokens": 3, "seed": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its model is named by a directory."""
    folder = tmp_path_factory.mktemp("hostile")
    pair = embedded_pair()
    av = folder / DIRECTORY
    shutil.copytree(pair.av, av)
    with ServerProcess(folder / "log", {"av": av, "ar": pair.ar}) as server:
        yield server.wait_ready()


@pytest.fixture(autouse=True)
def nothing_is_left(server: ServerProcess) -> Iterator[None]:
    """And no line of the log is another's."""
    yield
    check(server)
    log = server.log.read_bytes()
    assert log.isascii() and not set(log) & {*range(32), 127} - {ord("\n")}
    ours = [line for line in log.decode().splitlines() if not GRPC.fullmatch(line)]
    ready, *rest = sorted(ours, key=lambda line: line.startswith("{"))
    assert ready.startswith("gloss ready: ") and all(json.loads(line)["event"] for line in rest)


def _is_safe(text: str) -> bool:
    """Whether a terminal obeys nothing of it but ends of lines."""
    kinds = {unicodedata.category(char) for char in text.replace("\n", "")}
    return not kinds & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _provoke(server: ServerProcess, name: str) -> list[str]:
    """A name wherever a caller may put one; what is said."""
    heard = []
    for call, request in (
        (server.stub.Verbalize, verbalize_request(ROWS, name, **SHORT)),
        (server.stub.Verbalize, pb.VerbalizeRequest(activations=tensor(ROWS), model=name)),
        (server.stub.Score, pb.ScoreRequest(texts=[name], activations=tensor(ROWS))),
    ):
        try:
            call(request, timeout=60)
        except grpc.RpcError as error:
            assert fault(error)[1:] in (
                ("INVALID_FIELD", "request_id"),
                ("UNKNOWN_MODEL", "model"),
                ("TEXT_TOO_LONG", "texts[0]"),
            )
            heard.append(error.details())  # type: ignore[attr-defined]
    metadata = (("x-name-bin", name.encode()[:4096]),)
    server.stub.GetStats(pb.GetStatsRequest(), metadata=metadata, timeout=10)
    return heard


def test_what_callers_choose(server: ServerProcess) -> None:
    before = [(name, labels) for name, labels, _ in samples(server)]
    assert server.stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=10).model == MODEL
    heard = [said for name in NAMES for said in _provoke(server, name)]
    assert all(len(said) < 500 and said.isprintable() for said in heard)
    assert len([said for said in heard if "expected" in said]) >= 10
    assert [(name, labels) for name, labels, _ in samples(server)] == before
    server.wait_for(
        lambda: FILLED_IN in [line["request_id"] for line in server.events("call")],
    )


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header[0].decode())
def test_headers_that_no_client_sends(server: ServerProcess, header: tuple[bytes, bytes]) -> None:
    # Refused by gRPC with the connection, or a call as any other.
    server.calls.add_lost("GetStats")
    with RawConnection(server.address) as raw, suppress(ConnectionError):
        assert raw.status(raw.call(f"/{OURS}/GetStats", [header])) in range(17)


def test_a_method_of_nobody(server: ServerProcess) -> None:
    with RawConnection(server.address) as raw, suppress(ConnectionError):
        assert raw.status(raw.call(f"/{OURS}/{OBEYED}{FORGED}")) == 12


def test_what_the_commands_say(server: ServerProcess, gloss: Command, tmp_path: Path) -> None:
    facts = server.ports
    assert facts["model"] == MODEL
    with others(server):
        health = gloss("health", server.address)
        assert (health.status, health.stdout, health.stderr) == (0, "SERVING\n", "")
        page = gloss("top", server.address, "--once")
        assert page.status == 0 and MODEL[:40] in page.stdout and _is_safe(page.stdout)
        rows, output = tmp_path / f"{DIRECTORY}.npy", tmp_path / f"{DIRECTORY}.jsonl"
        np.save(rows, np.concatenate([ROWS, 0 * ROWS]))
        ended = gloss(
            *("verbalize", rows, "--address", server.address, "--output", output),
            *("--max-new-tokens", 3, "--seed", 1),
        )
        assert ended.status == 3 and _is_safe(ended.stdout) and _is_safe(ended.stderr)
        assert len(read_rows(output)) == 2 and DIRECTORY not in ended.stderr
        np.save(rows, np.ones((1, 64), np.float32))
        ended = gloss(
            "verbalize", rows, "--address", server.address, "--output", tmp_path / "o.jsonl"
        )
        assert ended.status == 2 and _is_safe(ended.error) and "\\x1b[2J" in ended.error


def test_the_name_in_a_certificate(tmp_path: Path) -> None:
    """An authority signs what it is asked to."""
    name = f"{OBEYED}{FORGED}"[:60]
    certificates = Certificates.make(tmp_path)
    leaf = certificates.authority.issue_cert("client.test", common_name=name)
    write(leaf, certificates.cert, certificates.key)
    flags = {
        "address": "localhost:0",
        "tls-cert": certificates.server_cert,
        "tls-key": certificates.server_key,
        "tls-client-ca": certificates.ca,
    }
    with (
        ServerProcess(tmp_path / "log", dict(flags)) as server,
        grpc.secure_channel(
            server.wait_ready().address, certificates.channel_credentials(mutual=True)
        ) as channel,
    ):
        stub = gloss_pb2_grpc.GlossServiceStub(channel)
        stub.Verbalize(verbalize_request(ROWS, **SHORT), timeout=30)
        server.wait_for(lambda: bool(server.events("call")))
        (line,) = server.events("call")
        assert line["client"] == name
        assert _is_safe(server.output()) and not [
            labels for _, labels, _ in samples(server) if "pwned" in labels
        ]


def test_the_name_of_a_client_of_the_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[clients.{json.dumps(OBEYED + ALICE)}]\ntoken = "{ALICE}"\n')
    with ServerProcess(tmp_path / "log", {"tokens": path}) as server:
        assert server.process.wait(20) == 2
        (line,) = server.output().splitlines()
        assert "client 1 of the file" in line and _is_safe(line) and "pwned" not in line
