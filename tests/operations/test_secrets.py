"""Whatever goes wrong, nothing that is secret comes out of a server: not into its log, metrics or
stats, and not to a caller."""

from __future__ import annotations

import base64
import hashlib
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from gloss_api.v1 import gloss_pb2 as pb
from support.raw_http2 import RawConnection
from support.server_process import ServerProcess
from support.service_calls import tensor, verbalize_request
from support.token_calls import ALICE, BOB, OURS, bearer, write_tokens

FAILING = (sys.executable, "-m", "support.serve_with_worker", "support.failing_worker")
WRONG = "mallory-0123456789abcdef"
TEXT = "xylophone-in-the-prompt"
# No multiple of a power of two, so that every digit of it is its own.
VALUE = 0.48151623
TOKENS = (ALICE, BOB, WRONG)


def forms(secret: str) -> list[str]:
    """A secret, and what it may be hidden in without being so."""
    data = secret.encode()
    return [secret, data.hex(), base64.b64encode(data).decode(), hashlib.sha256(data).hexdigest()]


SECRETS = [
    *(form for token in TOKENS for form in forms(token)),
    *forms(TEXT)[:3],
    str(VALUE)[:8],
    np.float32(VALUE).tobytes().hex(),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Everything is logged that ever is; an enormous activation crashes its engine."""
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    text = f'[clients.alice]\ntoken = "{ALICE}"\n[clients.bob]\nsha256 = "{digest}"\n'
    flags = {"tokens": write_tokens(tmp_path / "tokens.toml", f"{text}methods = ['GetStats']")}
    settings: dict[str, object] = {
        "log_level": "debug",
        "max_text_tokens": 64,
    }
    with ServerProcess(tmp_path / "log", flags, settings, FAILING) as server:
        yield server.wait_ready()


def rows(scale: float = 1.0) -> np.ndarray:
    return np.full((2, 128), scale * VALUE, np.float32)


class Caller:
    """Calls, and keeps all that comes back."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.heard: list[str] = []

    def call(self, method: str, token: str | None, request: Message | bytes) -> str:
        """The code of a call of whatever form."""
        content = request if isinstance(request, bytes) else request.SerializeToString()
        call = self._channel.stream_stream(f"/{OURS}/{method}")(
            iter([content]), metadata=bearer(token), timeout=20
        )
        with suppress(grpc.RpcError):
            # What it was to know is its own.
            list(call)
        metadata: Any = (*call.initial_metadata(), *call.trailing_metadata())
        self.heard.append(f"{call.details()} {[(key, value) for key, value in metadata]}")
        return str(call.code().name)


def provoke(caller: Caller) -> list[str]:
    """All kinds of failures; their codes."""
    long = pb.TextInput(text=f"{TEXT} " * 100)
    narrow = tensor(rows()[:, :100])
    prompt = pb.TextInput(text=TEXT)
    capture = pb.CaptureRequest(inputs=[pb.CaptureInput(input=one) for one in (long, prompt)])
    fine = verbalize_request(rows(), "r", max_new_tokens=4)
    return [
        caller.call("GetStats", None, b""),
        caller.call("GetStats", WRONG, b""),
        caller.call("None", WRONG, b""),
        caller.call("Verbalize", BOB, fine),
        caller.call("Verbalize", ALICE, TEXT.encode() + ALICE.encode()),
        caller.call("Explain", ALICE, pb.ExplainRequest(input=long)),
        caller.call("Watch", ALICE, pb.WatchRequest(prompt=prompt, model="other")),
        caller.call("Watch", ALICE, pb.WatchRequest(prompt=prompt, every=0, max_pending=10**6)),
        caller.call("Capture", ALICE, capture),
        caller.call("Verbalize", ALICE, pb.VerbalizeRequest(activations=narrow)),
        caller.call("Score", ALICE, pb.ScoreRequest(texts=[TEXT], activations=tensor(rows()))),
        caller.call("Reconstruct", ALICE, pb.ReconstructRequest(texts=[f"{TEXT} " * 10_000])),
        caller.call("Verbalize", ALICE, fine),
        caller.call("Verbalize", ALICE, verbalize_request(rows(2.0), "r", max_new_tokens=4)),
        caller.call("Verbalize", ALICE, verbalize_request(rows(1e9), max_new_tokens=4)),
    ]


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def test_nothing_secret_comes_out(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        codes = provoke(caller)
        with RawConnection(server.address) as raw:
            for value in (b"\xff", b"x" * 20_000):
                header = (b"authorization", f"Bearer {WRONG}".encode() + value)
                assert raw.status(raw.call(f"/{OURS}/GetStats", [header])) in (8, 16)
        server.wait_for(lambda: len(server.events("engine_loaded")) == 2)
        stats = channel.unary_unary(f"/{OURS}/GetStats")(b"", metadata=bearer(BOB), timeout=10)
    with urllib.request.urlopen(f"http://{server.ports['metrics']}/metrics", timeout=10) as reply:
        metrics = reply.read().decode()
    assert server.terminate() == 0
    # What was meant to fail did, each in its way, and was told.
    assert codes.count("OK") <= 4 and {"UNAUTHENTICATED", "PERMISSION_DENIED"} < set(codes)
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "UNAVAILABLE"} < set(codes)
    log = server.output()
    assert "engine_failed" in log and "Traceback" in log and '"client": "alice"' in log
    assert b"ENGINE_RESTARTED" in stats and "WRONG_TOKEN" in metrics
    outputs = (log, metrics, stats.decode(errors="replace"), "".join(caller.heard))
    assert [leaks(output) for output in outputs] == [[]] * len(outputs)
    assert leaks(f"{ALICE} {float(rows()[0, 0])!r}")
