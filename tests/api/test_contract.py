"""The committed stubs are the contract's, and proto/check.sh refuses what would break callers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from gloss_api.v1 import gloss_pb2

PROTO = Path(__file__).parents[2] / "proto"
BUF = Path(sys.executable).parent / "buf"
CONTRACT = Path("gloss_api/v1/gloss.proto")

Checked = Callable[[Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """A copy of proto/ to break."""
    return shutil.copytree(PROTO, tmp_path / "proto")


@pytest.fixture
def check(tmp_path: Path) -> Checked:
    """Runs check.sh; in place of protoc, a stand-in that gives the committed stubs.

    The real generator has a venv of its own, which only `make check` sets up; that the committed
    stubs hold the contract is `test_stubs_hold_the_contract`'s.
    """
    generator = tmp_path / "protoc"
    generator.write_text(
        f"#!/bin/sh\nfor argument; do case $argument in --python_out=*) mkdir -p "
        f'"${{argument#*=}}/gloss_api/v1"; cp {PROTO}/gloss_api/v1/gloss_pb2* '
        '"${argument#*=}/gloss_api/v1";; esac; done\n'
    )
    generator.chmod(0o755)

    def run(proto: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [proto / "check.sh"],
            env={**os.environ, "PROTOC": str(generator), "BUF": str(BUF)},
            capture_output=True,
            text=True,
        )

    return run


def edit(path: Path, old: str, new: str) -> None:
    """Replaces the only occurrence of `old`."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text.count(old))
    path.write_text(text.replace(old, new))


def test_the_committed_contract_passes(contract: Path, check: Checked) -> None:
    done = check(contract)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param("  optional uint64 item_key = 1;\n", "  reserved 9;\n", "deleted", id="gone"),
        pytest.param("uint64 item_key = 1;", "uint64 item_key = 11;", "deleted", id="renumbered"),
        pytest.param("uint64 item_key = 1;", "uint64 key = 1;", "changed name", id="renamed"),
        pytest.param("uint64 item_key = 1;", "string item_key = 1;", "changed type", id="retyped"),
        pytest.param("  TENSOR_DTYPE_FLOAT16 = 3;", "", "deleted", id="enum value gone"),
        pytest.param(
            "returns (ScoreResponse)", "returns (stream ScoreResponse)", "streaming", id="stream"
        ),
    ],
)
def test_what_breaks_callers_is_refused(
    contract: Path, check: Checked, old: str, new: str, complaint: str
) -> None:
    edit(contract / CONTRACT, old, new)
    done = check(contract)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "breaks callers of the released contract" in done.stderr


def test_a_new_field_is_no_break(contract: Path, check: Checked) -> None:
    edit(
        contract / CONTRACT,
        "  optional uint64 item_key = 1;\n",
        "  optional uint64 item_key = 1;\n  // New.\n  optional string note = 99;\n",
    )
    assert check(contract).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param("  // 0 is greedy; else 1e-6 to 100. Default: 1.\n", "", "comment", id="bare"),
        pytest.param("service GlossService {", "service Gloss {", "suffix", id="service name"),
    ],
)
def test_what_breaks_the_rules_is_refused(
    contract: Path, check: Checked, old: str, new: str, complaint: str
) -> None:
    edit(contract / CONTRACT, old, new)
    done = check(contract)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "breaks the rules" in done.stderr


@pytest.mark.parametrize("stub", ["gloss_pb2.py", "gloss_pb2.pyi", "gloss_pb2_grpc.py"])
def test_a_stale_stub_is_refused(contract: Path, check: Checked, stub: str) -> None:
    with (contract / CONTRACT.parent / stub).open("a") as file:
        file.write("# by hand\n")
    done = check(contract)
    assert done.returncode == 1
    assert f"{stub} is not what gloss.proto gives: run make proto" in done.stderr


def test_stubs_hold_the_contract(tmp_path: Path) -> None:
    """By descriptor, so that a forgotten `make proto` fails here as well, without its tools."""
    built = tmp_path / "set.binpb"
    subprocess.run(
        [BUF, "build", PROTO, "--as-file-descriptor-set", "--exclude-source-info", "-o", built],
        check=True,
    )
    files = descriptor_pb2.FileDescriptorSet.FromString(built.read_bytes()).file
    (expected,) = (file for file in files if file.name == str(CONTRACT))
    got = descriptor_pb2.FileDescriptorProto()
    gloss_pb2.DESCRIPTOR.CopyToProto(got)
    for file in (expected, got):
        for message in file.message_type:
            for field in message.field:
                # buf writes the default JSON names out, protoc's Python stubs leave them away.
                field.ClearField("json_name")
    assert got == expected


def test_stubs_import_without_a_warning() -> None:
    """protobuf and grpc warn, before they refuse, of stubs that are newer than they are."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import gloss_api.v1.gloss_pb2_grpc"],
        env={**os.environ, "PYTHONPATH": str(PROTO)},
        check=True,
    )
