"""The image, rehearsed: no engine of containers is needed, and none has built it.

The Dockerfile's own steps make a root of the cpu target, and its own entry point, environment, user
and health check run there with nothing to write to but /tmp. Not rehearsed: the base image, what an
index serves, and what the cuda target adds with apt-get.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gloss_server.address import Address
from gloss_server.settings import ServeSettings
from support.container import Container
from support.dockerfile import Dockerfile
from support.image import REPOSITORY, Image

DOCKERFILE = Dockerfile(REPOSITORY / "Dockerfile")
TARGETS = ("cpu", "cuda")
SERVE = DOCKERFILE.command("cpu", "ENTRYPOINT") + DOCKERFILE.command("cpu", "CMD")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The cpu target."""
    return Image(DOCKERFILE, "cpu", tmp_path_factory.mktemp("image"))


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_image_says_of_itself(target: str) -> None:
    """Numbers agree: ports with settings, the check with the admin port; the user is a number."""
    environment = DOCKERFILE.environment(target)
    given = {
        name.removeprefix("GLOSS_").lower(): value
        for name, value in environment.items()
        if name.startswith("GLOSS_")
    }
    settings = ServeSettings(**given)
    assert settings.admin_address is not None
    addresses = [settings.address, settings.admin_address, settings.metrics_address]
    listening = [Address.parse(address) for address in addresses]
    assert {address.host for address in listening} == {"0.0.0.0"}
    exposed = DOCKERFILE.last(target, "EXPOSE").split()
    assert exposed == [str(address.port) for address in listening]
    health = f"127.0.0.1:{listening[1].port}"
    assert DOCKERFILE.command(target, "HEALTHCHECK") == ["gloss", "health", health]
    assert DOCKERFILE.last(target, "USER") == "10001:10001"
    assert DOCKERFILE.last(target, "STOPSIGNAL") == "SIGTERM"
    assert DOCKERFILE.command(target, "ENTRYPOINT") == ["gloss"]
    # A build without --target makes the small one.
    assert list(DOCKERFILE.stages)[-1] == "cpu"


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word
        for stage in DOCKERFILE.stages.values()
        for instruction in stage.instructions
        if instruction.name == "COPY" and "--from=" not in instruction.text
        for word in instruction.words()[:-1]
    }
    assert copied == let_in


def test_it_serves_as_nobody_and_ends_when_it_is_told(image: Image, tmp_path: Path) -> None:
    """The health check as Docker runs it, a call, what it may do, and SIGTERM to process 1."""
    with Container(image.spec(num_threads=1), SERVE, tmp_path / "log") as running:
        running.wait_for(lambda: "gloss ready" in running.output())
        checked = running.execute(DOCKERFILE.command("cpu", "HEALTHCHECK"))
        assert (checked.returncode, checked.stdout) == (0, "SERVING\n")
        said = running.execute(["gloss", "explain", "Leo is a tailor."])
        assert said.returncode == 0, said.stderr
        assert "tailor" in said.stdout

        status = running.execute(["cat", "/proc/1/status"]).stdout
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) == 0
        assert set(fields["Uid"].split()) == {"10001"} or os.geteuid() != 0
        script = "for place in / /opt/gloss /etc /usr; do touch $place/x && echo $place; done"
        assert running.execute(["sh", "-c", script]).stdout == ""
        assert running.execute(["touch", "/tmp/x"]).returncode == 0

        running.signal(signal.SIGTERM)
        assert running.wait(30) == 0
        assert "Traceback" not in running.output()


def test_the_small_one_has_no_compiler_of_kernels(image: Image) -> None:
    """And nothing in its place: what the server needs is what the wheel says it needs."""
    (site,) = (image.root / "opt/gloss/lib").glob("python*/site-packages")
    assert not list(site.glob("triton*"))
    assert (site / "gloss_server/embedded").is_dir() and (site / "torch").is_symlink()
    assert not (site / "pytest").is_symlink() and not (site / "ray").is_symlink()


def test_sigterm_ends_process_1_while_it_imports(image: Image, tmp_path: Path) -> None:
    """The kernel would drop a signal that process 1 has no handler for."""
    command = ["python", "-X", "importtime", "-m", "gloss_server.command", "serve"]
    with Container(image.spec(), command, tmp_path / "log") as running:
        running.wait_for(lambda: "gloss_server.cli.server" in running.output())
        running.signal(signal.SIGTERM)
        assert running.wait(30) in (0, 128 + signal.SIGTERM)
