"""Brings the sources of a server's settings together: flags, environment, a TOML file.

Precedence: flag (--max-items), environment (GLOSS_MAX_ITEMS), file (max_items = 8), default. A key
that no setting has is refused wherever it stands, and an error names the place it came from. This
is the only place that reads GLOSS_ variables for a server.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from gloss_server.command_error import CommandError
from gloss_server.settings import ENV_PREFIX, ServeSettings
from gloss_server.sources.client_environment import TOKEN, TOKEN_FILE

_MAX_SHOWN = 80
# Kubernetes tells every pod of a service called gloss, or gloss-metrics, where the service is:
# GLOSS_SERVICE_HOST, GLOSS_SERVICE_PORT_GRPC, GLOSS_PORT_50051_TCP_ADDR. They are not ours.
_SERVICE_LINK = re.compile(
    r"GLOSS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)"
)
# What stands before a URL's host may be a password, and a refusal ends up in logs.
_CREDENTIALS = re.compile(r"://.*@", re.DOTALL)
# How pydantic begins what we begin with "expected".
_PHRASING = re.compile(r"^(Value error, |Input should be |String should have )")
# A default that needs a setting which is wrong itself: that one is reported.
_CONSEQUENCE = "default_factory_not_called"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Settings from one place.

    Attributes:
        values: what it states, by the setting's name.
        prefix: what stands before a setting's name in a message.
        spell: how a setting's name is written there.
    """

    values: Mapping[str, Any]
    prefix: str
    spell: Callable[[str], str] = str

    def where(self, name: str) -> str:
        return f"{self.prefix}{self.spell(name)}"


def read_settings(flags: Mapping[str, Any], config: Path | None = None) -> ServeSettings:
    """The settings that all sources together state.

    Args:
        flags: settings given on the command line, by name; None: not given.
        config: a TOML file; None: there is none.

    Raises:
        CommandError: a file that cannot be read, a key that no setting has, or a value that
            cannot be used: where it stands, what was got and what was expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    assert given.keys() <= ServeSettings.model_fields.keys()
    sources = [_Source(values=given, prefix="--", spell=_dashed), _environment()]
    if config is not None:
        sources.append(_file(config))
    merged: dict[str, Any] = {}
    for source in reversed(sources):
        merged.update(source.values)
    try:
        return ServeSettings(**merged)
    except ValidationError as error:
        raise CommandError("; ".join(_complaints(error, sources))) from error


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _environment() -> _Source:
    names = {f"{ENV_PREFIX}{name}".upper() for name in ServeSettings.model_fields}
    for variable in sorted(os.environ):
        ours = variable.startswith(ENV_PREFIX) and not (
            variable in (TOKEN, TOKEN_FILE) or _SERVICE_LINK.fullmatch(variable)
        )
        if ours and variable not in names:
            raise CommandError(
                f"environment: {variable} is no setting{_suggestion(variable, names)}"
            )
    values = EnvSettingsSource(ServeSettings)()
    return _Source(values=values, prefix=f"environment: {ENV_PREFIX}", spell=str.upper)


def _file(path: Path) -> _Source:
    try:
        # TomlConfigSettingsSource takes a file that is not there for an empty one.
        path.open("rb").close()
        values = TomlConfigSettingsSource(ServeSettings, path).toml_data
    except OSError as error:
        raise CommandError(f"--config {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"--config {path}: expected TOML, got: {error}") from error
    names = ServeSettings.model_fields.keys()
    for key in values:
        if key not in names:
            raise CommandError(f"{path}: {_shown(key)} is no setting{_suggestion(key, names)}")
    return _Source(values=values, prefix=f"{path}: ")


def _suggestion(got: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(got.replace("-", "_"), sorted(names), n=1)
    return (
        f"; did you mean {near[0]}?" if near else f". The settings are {', '.join(sorted(names))}"
    )


def _complaints(error: ValidationError, sources: list[_Source]) -> list[str]:
    """What is wrong, a clause each."""
    clauses = []
    for problem in error.errors():
        if problem["type"] == _CONSEQUENCE:
            continue
        name = str(problem["loc"][0])
        source = next(source for source in sources if name in source.values)
        expected = _PHRASING.sub("", problem["msg"])
        got = _shown(source.values[name])
        clauses.append(f"{source.where(name)}: got {got}, expected {expected}")
    return clauses


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Path) else repr(value)
    text = _CREDENTIALS.sub("://...@", text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
