"""Rehearses an image without an engine of containers: its Dockerfile's own steps, in namespaces.

Each stage has a root of its own: the host's /usr and this Python, read-only, in the place of the
base image. COPY and RUN are done as they stand, RUN by a shell inside that root. What an index
would bring is there already: the distributions that the project's requirements need and no others,
linked from this Python's. So pip finds them installed, or fails for the one that is missing.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from support.container import BASE, PACKAGES, Container, ContainerSpec
from support.dockerfile import Dockerfile, Instruction, Stage

REPOSITORY = Path(__file__).parents[2]
_BASE_PATH = "/base/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_ETC = ("passwd", "group", "shadow", "gshadow", "login.defs", "ld.so.cache", "nsswitch.conf")
# No index, and the build backend as it is installed.
_OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}


class Image:
    """One target of a Dockerfile, built when it is made.

    Args:
        dockerfile: the file.
        target: the stage.
        directory: an empty place for the roots of its stages.

    Attributes:
        root: its root directory.
    """

    def __init__(self, dockerfile: Dockerfile, target: str, directory: Path) -> None:
        self._dockerfile, self._target, self._directory = dockerfile, target, directory
        self._built: dict[str, Path] = {}
        self.root = self._stage(target)

    def spec(self, **settings: object) -> ContainerSpec:
        """A container of it as a strict host runs it: read-only but for /tmp.

        Args:
            settings: of the server, beside the image's own.
        """
        uid, _, _ = self._dockerfile.last(self._target, "USER").partition(":")
        extra = {f"GLOSS_{name.upper()}": str(value) for name, value in settings.items()}
        return ContainerSpec(
            root=self.root,
            uid=int(uid),
            environment=self._dockerfile.environment(self._target) | extra,
        )

    def _stage(self, name: str) -> Path:
        if name not in self._built:
            stage = self._dockerfile.stages[name]
            root = self._built[name] = self._directory / name
            if stage.parent in self._dockerfile.stages:
                shutil.copytree(self._stage(stage.parent), root, symlinks=True)
            else:
                _make_base(root)
            self._run_steps(stage, root)
        return self._built[name]

    def _run_steps(self, stage: Stage, root: Path) -> None:
        for place, instruction in enumerate(stage.instructions):
            if instruction.name == "COPY":
                self._copy(instruction, root, _workdir(stage, place))
            elif instruction.name == "RUN":
                if "-m venv /opt/gloss" in instruction.text.replace("--without-pip ", ""):
                    _link(root / "opt/gloss", _requirements(("server", "traces")))
                environment = self._dockerfile.environment(stage.name) | _OFFLINE
                environment["PATH"] = _BASE_PATH
                if "pip wheel" in instruction.text:
                    environment["PYTHONPATH"] = str(PACKAGES)
                spec = ContainerSpec(
                    root=root,
                    environment=environment,
                    directory=_workdir(stage, place),
                    writable=True,
                )
                log = self._directory / "log"
                with Container(spec, ["/bin/sh", "-c", instruction.text], log) as step:
                    assert step.wait(120) == 0, f"{instruction.text}\n{step.output()}"

    def _copy(self, instruction: Instruction, root: Path, workdir: str) -> None:
        *sources, target = instruction.words()
        source_root = REPOSITORY
        if sources[0].startswith("--from="):
            source_root = self._stage(sources.pop(0).removeprefix("--from="))
        for source in sources:
            found = source_root / source.lstrip("/")
            to = root / workdir.lstrip("/") / target if target[0] != "/" else root / target[1:]
            if found.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(found, to, symlinks=True, ignore=ignore, dirs_exist_ok=True)
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, to)


def _workdir(stage: Stage, place: int) -> str:
    said = [i.text for i in stage.instructions[:place] if i.name == "WORKDIR"]
    return said[-1] if said else "/"


def _make_base(root: Path) -> None:
    """What stands in for the base image."""
    for name in ("usr", "proc", "dev", "tmp", "opt", "etc", "base/bin", "var", "src", "build"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if (Path("/") / name).is_symlink():
            (root / name).symlink_to((Path("/") / name).readlink())
    for name in _ETC:
        if (Path("/etc") / name).exists():
            shutil.copy2(Path("/etc") / name, root / "etc" / name)
    for mounted in (PACKAGES, BASE):
        (root / str(mounted).lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / "base/bin/python").symlink_to(Path(sys.executable).resolve())
    pip = root / "base/bin/pip"
    pip.write_text(f'#!/bin/sh\nexec python {PACKAGES}/pip "$@"\n')
    pip.chmod(0o755)


def _requirements(extras: Iterable[str]) -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def _link(venv: Path, wanted: list[Requirement]) -> None:
    """Link distributions and all that they need into a virtual environment."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    seen: set[tuple[str, str]] = set()
    todo = [(r.name, extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found = distribution(name)
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "/", "__pycache__") and not (site / top).is_symlink():
                (site / top).symlink_to(PACKAGES / top)
        for line in found.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(requirement.name, one) for one in ("", *requirement.extras)]
