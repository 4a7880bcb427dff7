"""A run's configuration: TOML, dotted overrides, unknown keys refused with the nearest name.

Every section is a dataclass of the module that uses it; only here does pydantic read them. What a
file or an override does not state has the default that stands in the dataclass.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gloss_training.documents.settings import DataSettings
from gloss_training.errors import ConfigError
from gloss_training.models.lora import LoraSettings
from gloss_training.models.sharding import ShardingSettings
from gloss_training.rl.settings import RlSettings
from gloss_training.settings import (
    AvSettings,
    EvaluateSettings,
    PromptSettings,
    SftSettings,
    TargetSettings,
)
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.world.settings import WORLD_PROMPT, WorldSettings

SHIPPED: Final = Path(__file__).parents[1] / "configs"
"""The configurations that come with the package; a command takes their bare names."""
LATER: Final = ("judge", "world.num_attributes", "world.vocabulary_size", "av.vocabulary_chunk")
"""Settings that came after runs and evidence: kept where they are not the default, so that what was
made before them is still of the same settings."""
_EXPECTED: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dataclass_type": "a section of settings",
}
"""What pydantic's kinds of refusal mean for who writes TOML."""


class RunConfig(BaseModel):
    """One run, all stages.

    Attributes:
        seed: equal configurations and thread counts give equal bytes on a CPU.
        num_threads: of the CPU; far more of them than it has end the process.
        device: auto (the first GPU, else the CPU), cpu, cuda or cuda:N.
        dtype: what AV, AR and the tiny world's target are computed in; what is learnt is float32 in
            any case.
        target: the model that is explained.
        world: the tiny world in its place: documents, teacher and target are made.
        prompt: how activations and explanations are put to AV and AR; by default the world's own,
            where there is one.
        data, ar, av, rl, evaluate: the stages.
        teacher: who explains; who rewords in an evaluation.
        judge: who judges in RL; None: who explains.
        lora: adapters over one frozen base in place of all weights.
        sharding: of several processes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    num_threads: int = Field(default=1, gt=0, le=1024)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    dtype: Literal["float32", "bfloat16"] = "float32"
    target: TargetSettings | None = None
    world: WorldSettings | None = None
    prompt: PromptSettings = PromptSettings()
    data: DataSettings = DataSettings()
    teacher: TeacherSettings = TeacherSettings()
    judge: TeacherSettings | None = None
    ar: SftSettings = SftSettings()
    av: AvSettings = AvSettings()
    rl: RlSettings = RlSettings()
    lora: LoraSettings = LoraSettings()
    sharding: ShardingSettings = ShardingSettings()
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.target is None) == (self.world is None):
            raise ValueError(
                f"got {'neither' if self.target is None else 'both'} of target and world, expected "
                "one: [target] names the model that is explained, [world] has a tiny one trained"
            )
        if self.world is None and not self.data.documents:
            raise ValueError(
                "data.documents: got nothing, expected a file or directory of documents; only the "
                "tiny world makes its own"
            )
        return self

    @property
    def layer_index(self) -> int:
        """K; activations are the output of block K."""
        if self.world is not None:
            return self.world.shape.layer_index
        assert self.target is not None
        return self.target.layer_index

    def plain(self) -> dict[str, Any]:
        """As JSON has it; of LATER what has not its default."""
        found = self.model_dump(mode="json")
        for setting in LATER:
            section, _, name = setting.rpartition(".")
            holder = getattr(self, section) if section else self
            if holder is not None and getattr(holder, name) == _fields(type(holder))[name][1]:
                del (found[section] if section else found)[name]
        return found


def read_config(name: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a TOML file with overrides.

    Args:
        name: a file, or the bare name of a configuration that comes with the package.
        overrides: `section.key=value`, the value as TOML has it; text needs no quotes.

    Raises:
        ConfigError: no such file, no TOML, an unknown key or a value that is refused.
    """
    path = _path_of(name)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; expected a TOML file") from error
    for override in overrides:
        _override(given, override)
    return parse_config(given)


def parse_config(given: Mapping[str, Any]) -> RunConfig:
    """The configuration of plain values.

    Raises:
        ConfigError: an unknown key or a value that is refused.
    """
    unknown = list(_unknown_keys(RunConfig, given, ()))
    if unknown:
        raise ConfigError("; ".join(unknown))
    if given.get("world") is not None and "prompt" not in given:
        given = {**given, "prompt": dataclasses.asdict(WORLD_PROMPT)}
    try:
        # Strict, so that neither true nor '1' is a number; as JSON, so that a list is a tuple.
        return RunConfig.model_validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("; ".join(_lines(error))) from error


def shipped_names() -> list[str]:
    """Bare names of the configurations that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def setting_names(kind: Any = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name, with its default; MISSING where it has none."""
    found: dict[str, Any] = {}
    for name, (inner, default) in _fields(kind).items():
        section = _section(inner)
        if section is None:
            found[f"{prefix}{name}"] = default
        else:
            found.update(setting_names(section, f"{prefix}{name}."))
    return found


def _path_of(name: str | Path) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name}.toml"
    if path.name == str(name) and shipped.is_file():
        return shipped
    raise ConfigError(
        f"{name}: got no such file, expected a TOML file or one of {', '.join(shipped_names())}"
    )


def _override(given: dict[str, Any], override: str) -> None:
    """Puts `section.key=value` into plain values."""
    name, equals, text = override.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    place = given
    for key in keys[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {key} is no section")
        place = inner
    place[keys[-1]] = value


def _unknown_keys(kind: Any, given: Mapping[str, Any], path: Sequence[str]) -> Iterable[str]:
    """What is unknown in plain values, each with the nearest name that is known."""
    fields = _fields(kind)
    for key, value in given.items():
        name = ".".join((*path, key))
        if key in fields:
            section = _section(fields[key][0])
            if section is not None and isinstance(value, Mapping):
                yield from _unknown_keys(section, value, (*path, key))
            continue
        near = difflib.get_close_matches(key, fields, n=1)
        elsewhere = [n for n in setting_names() if n.rpartition(".")[2] == key]
        if near:
            hint = f"did you mean {'.'.join((*path, near[0]))}?"
        elif elsewhere:
            hint = f"did you mean {' or '.join(elsewhere)}?"
        else:
            hint = f"known here: {', '.join(fields)}"
        yield f"{name}: no such setting; {hint}"


def _fields(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Type and default of each field of a section."""
    hints = get_type_hints(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {n: (hints[n], f.get_default()) for n, f in kind.model_fields.items()}
    found = {}
    for field in dataclasses.fields(kind):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        found[field.name] = (hints[field.name], default)
    return found


def _section(annotation: Any) -> Any:
    """The dataclass of a field that is a section, optional or not; None for a plain one."""
    options = [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not types.NoneType]
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _lines(error: ValidationError) -> Iterable[str]:
    """What pydantic found, with the setting's dotted name first."""
    for problem in error.errors(include_url=False):
        message = problem["msg"].removeprefix("Value error, ")
        place = ".".join(str(part) for part in problem["loc"])
        section = place.partition(".")[0]
        if problem["type"] == "value_error":
            # What the dataclasses say of themselves begins with a name.
            named = message.startswith(f"{section}.") or not place
            yield message if named else f"{place}.{message}"
        elif problem["type"] in ("missing", "missing_argument"):
            yield f"{place}: got nothing, expected a value"
        else:
            expected = _EXPECTED.get(problem["type"])
            said = f"; {message}" if expected is None else f", expected {expected}"
            yield f"{place}: got {problem['input']!r}{said}"
