"""The client runs where nothing but its declared dependencies is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.echo_server import EchoServer

ROOT = Path(__file__).parents[2]
# By what is imported; typing_extensions is grpcio's own dependency.
DISTRIBUTIONS = {
    "numpy": "numpy",
    "grpc": "grpcio",
    "grpc_status": "grpcio-status",
    "grpc_health": "grpcio-health-checking",
    "google.rpc": "googleapis-common-protos",
    "google.protobuf": "protobuf",
}
OURS = {"gloss_api", "gloss_client"}
# Where its caller has imported it already.
CALLERS = {"opentelemetry"}

PROGRAM = """
import sys

class OnlyDeclared:
    allowed = {allowed!r} | set(sys.stdlib_module_names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"{{name}} is not a dependency of the client")

sys.meta_path.insert(0, OnlyDeclared())
import asyncio
import numpy as np
from gloss_client import AsyncClient, Client

rows = np.ones((3, 8), np.float32)
with Client({address!r}, timeout=10) as client:
    print(client.health(), client.model_info().model)
    print(len(client.verbalize(rows).explanations), len(list(client.stream_verbalize(rows))))
    print(len(client.explain("ab").explanations), len(list(client.watch("ab"))))
    print(client.capture(["ab", [1]]).activations.shape)
    print(client.reconstruct(["a"]).activations.shape, len(client.score(["a"], rows[:1]).scores))

async def main():
    async with AsyncClient({address!r}, timeout=10) as client:
        print(len((await client.verbalize(rows)).explanations))

asyncio.run(main())
print(sorted(OnlyDeclared.allowed & {{"torch"}}), "torch" in sys.modules)
"""


def imports(package: Path) -> set[str]:
    """What a package's files import, from outside the standard library; google.* by two names."""
    names = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    shortened = {
        ".".join(name.split(".")[: 2 if name.startswith("google.") else 1]) for name in names
    }
    return shortened - set(sys.stdlib_module_names) - {"__future__"}


@pytest.mark.parametrize("package", ["server/gloss_client", "proto/gloss_api"])
def test_what_is_imported_is_declared(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"]}
    third_party = imports(ROOT / package) - OURS - CALLERS
    assert third_party <= DISTRIBUTIONS.keys()
    assert {DISTRIBUTIONS[name] for name in third_party} <= declared
    assert declared == set(DISTRIBUTIONS.values())


def test_the_client_runs_with_nothing_else(server: EchoServer) -> None:
    tops = {name.partition(".")[0] for name in DISTRIBUTIONS}
    program = PROGRAM.format(allowed=tops | OURS | {"typing_extensions"}, address=server.address)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "proto"), str(ROOT / "server")]),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [
        "serving echo",
        "3 12",
        "3 34",
        "(4, 8)",
        "(1, 8) 1",
        "3",
        "[] False",
    ]


def test_the_finder_would_stop_torch(server: EchoServer) -> None:
    """The test above is worth something only if a forbidden import fails it."""
    program = PROGRAM.format(allowed={"numpy"}, address=server.address)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "is not a dependency of the client" in done.stderr
