"""The `gloss` entry point: quick, honest about missing extras, one line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from gloss_server import __version__
from gloss_server.cli.app import run
from support.command_runs import Command

ROOT = Path(__file__).parents[3]


def _process(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / name) for name in ("proto", "kernels", "server", "training"))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_needs_no_torch_and_is_quick() -> None:
    code = (
        "import sys, gloss_server.command as c; sys.argv = ['gloss', '--help']\n"
        "try: c.main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    best = 1e9
    for _ in range(3):
        started = time.monotonic()
        ended = _process("-c", code)
        best = min(best, time.monotonic() - started)
        assert ended.returncode == 0 and ended.stderr == ""
        assert "verbalize" in ended.stdout and ended.stdout.endswith("[]\n")
    assert best < 2, "typer and rich take about 0.2 s; torch takes more than 2"


def test_a_missing_extra_is_named() -> None:
    # -S: no installed packages at all, as after a plain install of the base package.
    ended = _process("-S", "-m", "gloss_server.command", "demo")
    assert ended.returncode == 2 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "torch" in line and "pip install 'gloss-nla[server]'" in line
    one = "import sys; sys.modules['pyarrow'] = None; import gloss_server.command as c; c.main()"
    ended = _process("-c", one)
    assert ended.returncode == 2 and "gloss needs pyarrow:" in ended.stderr


def test_the_exit_status_reaches_the_shell(tmp_path: Path) -> None:
    ended = _process(
        *("-m", "gloss_server.command", "verbalize", str(tmp_path / "none.npy")),
        *("--local", "--av", "unread", "--output", str(tmp_path / "out.jsonl")),
    )
    assert ended.returncode == 2 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and "none.npy" in line


_COMMANDS = [
    ["explain", "Leo is", "--local"],
    ["watch", "Leo", "--local", "--target-max-new-tokens", "2"],
    ["watch", "Leo", "--local", "--json", "--target-max-new-tokens", "2"],
    ["demo", "Leo is"],
    ["demo", "--stories"],
    ["--version"],
    ["--help"],
]


@pytest.mark.parametrize("arguments", _COMMANDS, ids=" ".join)
def test_a_full_stdout_is_one_line(
    arguments: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run(arguments) == 1
    assert capfd.readouterr().err == "error: stdout: No space left on device\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", ">&- 2>&- <&-"])
def test_a_process_with_a_full_or_closed_stdout(redirection: str, unbuffered: str) -> None:
    """The interpreter has nothing to add at its end."""
    command = f"{sys.executable} -m gloss_server.command demo --stories {redirection}"
    ended = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        timeout=60,
    )
    is_full = redirection == ">/dev/full"
    assert ended.returncode == (1 if is_full else 0) and ended.stdout == ""
    assert ended.stderr == ("error: stdout: No space left on device\n" if is_full else "")


def test_version(gloss: Command) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]
    ended = gloss("--version")
    assert ended.status == 0 and ended.stdout == f"gloss {__version__}\n"


def test_mistakes_on_the_command_line(gloss: Command) -> None:
    assert gloss("sreve").status == 2 and "sreve" in gloss("sreve").error
    assert "--output" in gloss("verbalize", "x.npy").error
    bare = gloss()
    assert bare.status == 2 and "verbalize" in bare.stdout


def test_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("a defect of ours")

    monkeypatch.setattr("gloss_server.commands.doctor.examination.examine", broken)
    with pytest.raises(ValueError, match="a defect of ours"):
        run(["doctor", str(tmp_path)])


def test_interrupted_before_anything(
    monkeypatch: pytest.MonkeyPatch, gloss: Command, tmp_path: Path
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gloss_server.commands.doctor.examination.examine", interrupt)
    ended = gloss("doctor", tmp_path)
    assert ended.status == 130 and ended.error == "error: interrupted"
