"""Settings of the server: where they come from, which are refused, and what the refusal names."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.settings import ServeSettings
from gloss_server.settings_sources import read_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("GLOSS_"):
            monkeypatch.delenv(variable)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "gloss {1}.toml"


def refusal(flags: dict[str, object], config: Path | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        read_settings(flags, config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    monkeypatch: pytest.MonkeyPatch, toml: Path
) -> None:
    toml.write_text("max_items = 1\nmax_samples = 1\nnum_slots = 1\n")
    monkeypatch.setenv("GLOSS_MAX_ITEMS", "2")
    monkeypatch.setenv("GLOSS_MAX_SAMPLES", "2")
    # A flag that was not given is None, and must not hide the other sources.
    settings = read_settings({"max_items": 3, "max_samples": None, "dtype": None}, toml)
    found = (settings.max_items, settings.max_samples, settings.num_slots, settings.dtype)
    assert found == (3, 2, 1, "auto")


def test_the_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOSS_MAX_ITEMS", "2")
    assert ServeSettings().max_items == 1024
    with pytest.raises(ValidationError, match="frozen"):
        ServeSettings().max_items = 3  # type: ignore[misc]


def test_defaults_that_follow_other_settings(tmp_path: Path) -> None:
    settings = read_settings({})
    assert settings.model_name == "embedded" and settings.max_queued_tokens == 4096 * 200
    named = read_settings({"av": tmp_path / "x" / ".." / "my-av", "max_queued_explanations": 7})
    assert named.model_name == "my-av" and named.max_queued_tokens == 1400
    long = read_settings({"max_text_tokens": 100_000})
    assert (long.max_text_characters, long.max_queued_text_tokens) == (1_600_000, 1_600_000)
    assert settings.max_text_characters == settings.max_queued_text_tokens == 16 * 4096
    assert read_settings({"av": tmp_path, "model_name": "m"}).model_name == "m"
    odd = tmp_path / f"\x1b[2J\n\u202e\udcff{'y' * 200}"
    name = read_settings({"av": odd}).model_name
    assert name.startswith("\\x1b[2J\\n\\u202e\\udcffyyy") and len(name) == 128


def test_what_is_empty_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("METRICS_ADDRESS", "ADMIN_ADDRESS", "AV", "NUM_SLOTS"):
        monkeypatch.setenv(f"GLOSS_{name}", "")
    settings = read_settings({})
    assert settings.metrics_address == "" and settings.admin_address is None
    assert settings.av is None and settings.num_slots is None
    monkeypatch.setenv("GLOSS_MAX_ITEMS", "")
    assert refusal({}).startswith("environment: GLOSS_MAX_ITEMS: got '', expected a valid integer")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_items", 0, "greater than or equal to 1"),
        ("max_items", True, "neither true nor false"),
        ("memory_fraction", 1.5, "less than or equal to 1"),
        ("grace_seconds", float("nan"), "a finite number"),
        ("grace_seconds", -1, "greater than or equal to 0"),
        ("dtype", "int8", "'auto', 'float32', 'bfloat16' or 'float16'"),
        ("quantization", "int4", "'none' or 'fp8'"),
        ("batch_invariant", "perhaps", "a valid boolean, unable to interpret input"),
        ("graphs", "on", "'auto' or 'off'"),
        ("max_step_tokens", 0, "greater than or equal to 1"),
        ("model_name", "", "at least 1 character"),
        ("model_name", "a\u202e", "characters that print"),
        ("max_request_bytes", 2**31, "less than 2147483648"),
        ("address", "localhost", "HOST:PORT or [IPV6]:PORT or unix:PATH"),
        ("metrics_address", "unix:/tmp/x", "HOST:PORT or [IPV6]:PORT"),
        ("target_share", 1.0, "less than 1"),
        ("target_generates", 2, "a valid boolean, unable to interpret input"),
        ("max_text_tokens", 2**17 + 1, "less than or equal to 131072"),
        (
            *("max_queued_text_tokens", 8191),
            "8192 or more: a Capture has two texts of max_text_tokens in flight",
        ),
        ("ar", Path("ar"), "no ar, or the av that it belongs to as well"),
    ],
)
def test_every_source_is_named_with_got_and_expected(
    monkeypatch: pytest.MonkeyPatch, toml: Path, name: str, value: object, expected: str
) -> None:
    message = refusal({name: value})
    assert message.startswith(f"--{name.replace('_', '-')}: got ")
    assert message.endswith(f"expected {expected}")
    text = "true" if value is True else str(value)
    toml.write_text(f"{name} = {text}" if isinstance(value, int | float) else f"{name} = '{text}'")
    assert refusal({}, toml).startswith(f"{toml}: {name}: got ")
    monkeypatch.setenv(f"GLOSS_{name.upper()}", str(value))
    # Over the file: the environment's value is the one that counts, and so the one to blame.
    assert refusal({}, toml).startswith(f"environment: GLOSS_{name.upper()}: got ")


def test_all_mistakes_are_told_at_once_and_long_values_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOSS_MAX_ITEMS", "9" * 5000 + "x")
    message = refusal({"max_queued_explanations": 0, "device": "tpu"})
    assert all(f"{name}: got" in message for name in ("--device", "--max-queued-explanations"))
    assert "GLOSS_MAX_ITEMS" in message and len(message) < 600
    # Its default hangs on a setting that is wrong; only that one is a mistake.
    assert "max-queued-tokens" not in message


@pytest.mark.parametrize("credentials", ["user:s3cret@", "s3cret@", "u:s3/cret@x@", "@s3cret:x@"])
@pytest.mark.parametrize("scheme", ["http", "https", "grpc"])
def test_no_credentials_in_the_collectors_url(
    monkeypatch: pytest.MonkeyPatch, toml: Path, scheme: str, credentials: str
) -> None:
    """Settings that were given are logged, and so are refusals, by whoever started the server."""
    url = f"{scheme}://{credentials}host:4317"
    toml.write_text(f"traces = '{url}'")
    expected = "http://HOST:PORT or https://HOST:PORT"
    messages = [refusal({"traces": url}), refusal({}, toml)]
    monkeypatch.setenv("GLOSS_TRACES", url)
    for message in [*messages, refusal({})]:
        assert message.endswith(f": got '{scheme}://...@host:4317', expected {expected}")
        assert "s3" not in message and "cret" not in message


def test_given_settings_are_those_that_any_source_states(
    monkeypatch: pytest.MonkeyPatch, toml: Path
) -> None:
    toml.write_text("tokens = 'tokens.toml'\nmax_items = 5")
    monkeypatch.setenv("GLOSS_TRACES", "https://collector:4317/")
    settings = read_settings({"metrics_address": ""}, toml)
    assert settings.given == {
        "max_items": 5,
        "metrics_address": "",
        "tokens": "tokens.toml",
        "traces": "https://collector:4317/",
    }


def test_unknown_keys_are_refused_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, toml: Path
) -> None:
    toml.write_text("metrics-address = ''")
    assert refusal({}, toml) == (
        f"{toml}: 'metrics-address' is no setting; did you mean metrics_address?"
    )
    toml.write_text("[serve]\nmax_items = 1")
    message = refusal({}, toml)
    assert "'serve' is no setting. The settings are " in message and ", max_items, " in message
    monkeypatch.setenv("GLOSS_ADRESS", "x")
    assert refusal({}) == "environment: GLOSS_ADRESS is no setting; did you mean GLOSS_ADDRESS?"


def test_what_kubernetes_says_of_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        *("GLOSS_SERVICE_HOST", "GLOSS_SERVICE_PORT", "GLOSS_SERVICE_PORT_GRPC", "GLOSS_PORT"),
        *("GLOSS_PORT_50051_TCP", "GLOSS_PORT_50051_TCP_ADDR", "GLOSS_METRICS_SERVICE_HOST"),
    ):
        monkeypatch.setenv(variable, "tcp://10.0.0.1:50051")
    assert read_settings({}) == ServeSettings()


def test_files_that_cannot_be_read(tmp_path: Path, toml: Path) -> None:
    assert "No such file" in refusal({}, tmp_path / "none.toml")
    assert "directory" in refusal({}, tmp_path)
    for content in (b"max_items = ", b"\xff\xfe", b"a = 1\na = 2"):
        toml.write_bytes(content)
        assert refusal({}, toml).startswith(f"--config {toml}: expected TOML, got: ")


def test_addresses() -> None:
    assert Address.parse("127.0.0.1:0") == Address(host="127.0.0.1", port=0)
    assert Address.parse("[::1]:80") == Address(host="::1", port=80)
    assert str(Address.parse("[::1]:0").with_port(81)) == "[::1]:81"
    assert Address.parse("unix:/run/g.sock", unix=True) == Address(path="/run/g.sock")
    for text in ("unix:/run/g.sock", "a.b:65535"):
        assert str(Address.parse(text, unix=True)) == text
    bad = [
        "",
        "x",
        ":80",
        "x:",
        "x:65536",
        "x:-1",
        "::1:80",
        "[::1]",
        "a b:1",
        "h:1\n",
        "http://h:1",
    ]
    for text in [*bad, "unix:", "unix:" + "x" * 104, "unix:a\0b", "h:\u0661"]:
        with pytest.raises(ValueError):
            Address.parse(text, unix=True)
    with pytest.raises(ValueError):
        Address.parse("unix:/run/g.sock")


def test_every_setting_is_documented() -> None:
    text = inspect.cleandoc(ServeSettings.__doc__ or "")
    documented = re.findall(r"^    ([a-z_][a-z_, ]*):", text, re.MULTILINE)
    assert {name for names in documented for name in names.split(", ")} == set(
        ServeSettings.model_fields
    )
