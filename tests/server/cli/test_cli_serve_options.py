"""`gloss serve`: its flags reach the settings, and a flag that is not given hides nothing."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path

import pytest

from gloss_server.settings import ServeSettings
from support.command_runs import Command


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """Settings the server was started with; it ends with status 5."""
    for variable in list(os.environ):
        if variable.startswith("GLOSS_"):
            monkeypatch.delenv(variable)
    started: list[ServeSettings] = []

    def serve(settings: ServeSettings) -> int:
        started.append(settings)
        return 5

    module = types.ModuleType("gloss_server.front.server")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gloss_server.front.server", module)
    return started


def test_without_options(gloss: Command, served: list[ServeSettings]) -> None:
    ended = gloss("serve")
    assert ended.status == 5 and served == [ServeSettings()]


def test_every_flag(gloss: Command, served: list[ServeSettings], tmp_path: Path) -> None:
    flags = {
        "av": tmp_path / "av",
        "ar": tmp_path / "ar",
        "target": tmp_path / "target",
        "address": "unix:/tmp/gloss.sock",
        "metrics_address": "",
        "admin_address": "0.0.0.0:8080",
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "tls_client_ca": tmp_path / "ca.pem",
        "tokens": tmp_path / "tokens.toml",
        "device": "cpu",
        "dtype": "bfloat16",
        "quantization": "fp8",
        "injection_mode": "add",
        "fve_baseline": 0.5,
        "model_name": "m",
        "memory_fraction": 0.25,
        "max_step_tokens": 96,
        "graphs": "auto",
    }
    arguments = [item for name, value in flags.items() for item in (_flag(name), value)]
    assert gloss("serve", *arguments, "--batch-invariant").status == 5
    assert served == [ServeSettings(**flags, batch_invariant=True)]  # type: ignore[arg-type]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_environment_and_file_show_through(
    gloss: Command,
    served: list[ServeSettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "gloss.toml"
    config.write_text('address = "127.0.0.1:1"\ndtype = "float16"\ndevice = "cuda"')
    monkeypatch.setenv("GLOSS_DTYPE", "bfloat16")
    assert gloss("serve", "--config", config, "--device", "cpu").status == 5
    (settings,) = served
    found = (settings.address, settings.dtype, settings.device)
    assert found == ("127.0.0.1:1", "bfloat16", "cpu")


def test_a_switch_is_turned_off_again(
    gloss: Command, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOSS_BATCH_INVARIANT", "true")
    for flags, expected in (((), True), (("--no-batch-invariant", "--graphs", "off"), False)):
        assert gloss("serve", *flags).status == 5
        assert served.pop().batch_invariant is expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dtype", "int8"], "--dtype: got 'int8', expected 'auto', 'float32', 'bfloat16' or"),
        (["--quantization", "int4"], "--quantization: got 'int4', expected 'none' or 'fp8'"),
        (["--address", "here"], "--address: got 'here', expected HOST:PORT"),
        (["--config", "none.toml"], "--config none.toml: No such file"),
        (["--memory-fraction", "much"], "--memory-fraction"),
        (["--max-step-tokens", 0], "--max-step-tokens: got 0, expected greater than or equal to 1"),
        (["--graphs", "on"], "--graphs: got 'on', expected 'auto' or 'off'"),
        (
            ["--batch-invariant", "--graphs", "off"],
            "--graphs: got 'off', expected auto beside batch_invariant",
        ),
    ],
)
def test_refusals_start_nothing(
    gloss: Command, served: list[ServeSettings], flags: list[object], told: str
) -> None:
    ended = gloss("serve", *flags)
    assert ended.status == 2 and told in ended.error and not served


def test_the_help_states_the_true_defaults(
    gloss: Command, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = gloss("serve", "--help").stdout
    stated = dict(re.findall(r"--([a-z-]+) .*Default: ([^ ]+)\. ", text))
    settings = ServeSettings()
    assert len(stated) >= 6
    for name, value in stated.items():
        if name not in ("model-name", "admin-address"):
            assert str(getattr(settings, name.replace("-", "_"))) == value, name
    assert "--samples" not in text
