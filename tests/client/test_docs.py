"""docs/client.md: every Python example runs, and what it says of calls and errors is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from google.protobuf import json_format

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.status import ERRORS
from support.echo_server import echo_server

TEXT = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
BASH = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL))
SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Servers for every address of the text, and the files it speaks of, in the folder `cwd`."""
    folder = tmp_path_factory.mktemp("docs")
    np.save(folder / "activations.npy", np.eye(3, 8, dtype=np.float32))
    (folder / "token").write_text("s3cret\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert("client.test")
    own.cert_chain_pems[0].write_to_path(folder / "client.pem")
    own.private_key_pem.write_to_path(folder / "client-key.pem")
    server = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())],
        root_certificates=authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    with ExitStack() as stack:
        first, second = (stack.enter_context(echo_server()).address for _ in range(2))
        tls = stack.enter_context(echo_server(credentials=credentials)).address
        yield {
            "127.0.0.1:50051": first,
            "10.0.0.1:50051": first,
            "10.0.0.2:50051": second,
            "dns:///gloss-headless:50051": f"dns:///{first.replace('127.0.0.1', 'localhost')}",
            "gloss.example.com:443": tls.replace("127.0.0.1", "localhost"),
            "cwd": str(folder),
        }


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_an_example_runs(
    addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    program = PYTHON[number]
    for written, actual in addresses.items():
        program = program.replace(written, actual)
    monkeypatch.chdir(addresses["cwd"])
    exec(compile(program, f"docs/client.md example {number}", "exec"), {"__name__": "__main__"})


def test_all_examples_were_found() -> None:
    assert len(PYTHON) == TEXT.count("```python") >= 9
    assert len(re.findall("```", TEXT)) % 2 == 0


def test_the_written_request_is_one(
    addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the last example wrote, as grpcurl reads it."""
    test_an_example_runs(addresses, monkeypatch, len(PYTHON) - 1)
    text = (Path(addresses["cwd"]) / "request.json").read_text()
    request = json_format.Parse(text, pb.VerbalizeRequest())
    assert list(request.activations.shape) == [3, 8]
    assert len(request.activations.data) == 3 * 8 * 4
    json_format.Parse(f'{{"request": {text}}}', pb.StreamVerbalizeRequest())


def test_grpcurl_calls_methods_that_exist() -> None:
    called = re.findall(r"gloss_api\.v1\.GlossService/(\w+)", BASH)
    assert len(called) == 8
    methods = {method.name: method for method in SERVICE.methods}
    assert set(called) <= methods.keys()


def test_the_requests_that_grpcurl_sends_are_some() -> None:
    bodies = re.findall(r"-d '(\{.*?\})'[^']*?GlossService/(\w+)", BASH)
    assert [method for _, method in bodies] == ["Reconstruct", "Explain", "Watch", "Capture"]
    for body, method in bodies:
        request = json_format.Parse(body, getattr(pb, f"{method}Request")())
        assert len(request.ListFields()) >= 2


def test_the_table_of_errors_is_the_tables() -> None:
    rows = re.findall(r"^\| `(\w+)`.*? \| ([A-Z_, ]*?) ?\|", TEXT, re.MULTILINE)
    written = {
        grpc.StatusCode[code]: name for name, codes in rows for code in codes.split(", ") if code
    }
    assert written == {code: error.__name__ for code, error in ERRORS.items()}
