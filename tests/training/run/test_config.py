"""Configuration: TOML and overrides, unknown keys refused with the nearest name, all frozen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from gloss_training.errors import ConfigError
from gloss_training.run.config import (
    LATER,
    SHIPPED,
    RunConfig,
    parse_config,
    read_config,
    setting_names,
    shipped_names,
)
from gloss_training.run.stage_settings import differences
from gloss_training.world.settings import WORLD_PROMPT

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sed": 1}, "sed: no such setting; did you mean seed?"),
        (
            {"rl": {"kl": {"wieght": 1}}},
            "rl.kl.wieght: no such setting; did you mean rl.kl.weight?",
        ),
        ({"ar": {"batch_sise": 2}}, "ar.batch_sise: no such setting; did you mean ar.batch_size?"),
        ({"samples_per_prompt": 2}, "did you mean rl.samples_per_prompt?"),
        ({"world": {"shape": {"qqq": 2}}}, "world.shape.qqq: no such setting; known here: hidden_"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config({"world": {}, **given})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=-1", "seed: got -1"),
        ("device=gpu", "device: got 'gpu'"),
        ("rl.num_steps=0", "rl.num_steps: got 0, expected more than 0"),
        ("rl.kl.kind=k1", "rl.kl.kind: got 'k1', whose expected gradient in the loss is zero"),
        ("ar.learning_rate=fast", "ar.learning_rate: got 'fast'"),
        ("ar.learning_rate=0", "ar.learning_rate: got 0.0, expected more than 0"),
        ("world.shape.layer_index=3", "world.shape.layer_index: got 3, expected a block before"),
        ("world.shape.num_kv_heads=5", "a divisor of 2 heads"),
        ("world.shape.head_dim=24", "multiple of 16"),
        ("world.num_attributes=9", "world.num_attributes: got 9, expected at least 10"),
        ("world.num_attributes=17", "world.num_attributes: got 17, expected at most 16"),
        ("world.vocabulary_size=299", "world.vocabulary_size: got 299, expected at least 300"),
        ("world.training.num_steps=0", "world.training.num_steps: got 0"),
        ("evaluate.num_rows=1", "evaluate.num_rows: got 1, expected at least 2"),
        ("prompt.ar_template=nothing", "prompt.ar_template"),
        ('prompt.injection_char=""', "prompt.injection_char: got '', expected a visible"),
        ("num_threads=100000", "num_threads: got 100000"),
        ("seed=true", "seed: got True, expected a whole number"),
        ("seed=1.5", "seed: got 1.5, expected a whole number"),
        ("av.num_steps='10'", "av.num_steps: got '10', expected a whole number"),
        ("av.learning_rate=true", "av.learning_rate: got True, expected a number"),
        ("rl.trains_av=1", "rl.trains_av: got 1, expected true or false"),
        ("rl=3", "rl: got 3, expected a section of settings"),
        ("data.explained=av", "data.explained: got 'av', expected a list"),
        ('data.explained=["av", "ar", "av"]', "data.explained: got av, ar, av, expected each"),
        ("av.learning_rate=inf", "av.learning_rate: got inf, expected a finite number"),
        ("av.weight_decay=inf", "av.weight_decay: got inf, expected a finite number"),
        ("rl.av_learning_rate=inf", "rl.av_learning_rate: got inf, expected a finite number"),
        ("rl.kl.weight=inf", "rl.kl.weight: got inf, expected a finite number"),
        ("rl.reward.judge=inf", "rl.reward.judge: got inf, expected a finite number"),
        ("rl.num_warmup_steps=-5", "rl.num_warmup_steps: got -5, expected 0 or more"),
        ("rl.temperature=1e-7", "rl.temperature: got 1e-07, expected at least 1e-06"),
        ("rl.temperature=101", "rl.temperature: got 101.0, expected at most 100"),
        ("rl.importance_cap=0.5", "rl.importance_cap: got 0.5, expected at least 1"),
        ("rl.reward.reconstruction=0", "rl.reward: got 0 for every term"),
        ("data.shares.heldout=0", "data.shares.heldout: got 0.0, expected more than 0"),
        ("data.max_dropped_share=2", "data.max_dropped_share: got 2.0, expected at most 1"),
        ("data.max_unanswered_share=2", "data.max_unanswered_share: got 2.0, expected at most 1"),
        ("judge.base_url=localhost", "judge.base_url: got 'localhost', expected http"),
        ("teacher.base_url=localhost", "teacher.base_url: got 'localhost', expected http"),
        ("teacher.base_url=ftp://x", "teacher.base_url: got 'ftp://x', expected http"),
        ("teacher.temperature=inf", "teacher.temperature: got inf, expected a finite number"),
        ("target.path=x", "target.layer_index: got nothing, expected a value"),
        ("seed", "expected section.key=value"),
        ("seed.x=1", "seed is no section"),
    ],
)
def test_values_that_no_run_can_have_are_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config("smoke", [override])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["av.learning_rate=1"],
        ['data.explained=["av", "ar"]'],
        ["rl.importance_cap=inf", "ar.max_grad_norm=inf"],
        ["rl.trains_av=false", "rl.reward.reconstruction=0"],
        ["data.shares.rl=0"],
        ["teacher.base_url=http://127.0.0.1:8080/v1"],
        ["prompt.av_template=Say {it}: {injection_char} {"],
    ],
)
def test_values_that_have_a_meaning_are_taken(overrides: list[str]) -> None:
    read_config("smoke", overrides)


def test_target_or_world_but_not_both() -> None:
    with pytest.raises(ConfigError, match="neither of target and world"):
        parse_config({})
    target = {"path": "models/x", "layer_index": 2}
    with pytest.raises(ConfigError, match="both of target and world"):
        parse_config({"world": {}, "target": target})
    with pytest.raises(ConfigError, match=r"data\.documents: got nothing"):
        parse_config({"target": target})
    assert parse_config({"target": target, "data": {"documents": "d"}}).layer_index == 2


def test_overrides_win_over_the_file_and_keep_their_types() -> None:
    config = read_config(
        "smoke", ["rl.num_steps=7", "ar.learning_rate=0.5", "rl.kl.kind=k2", "rl.trains_av=false"]
    )
    assert (config.rl.num_steps, config.ar.learning_rate, config.rl.kl.kind) == (7, 0.5, "k2")
    assert config.rl.trains_av is False
    assert config.av == read_config("smoke").av


def test_files_are_read_and_what_is_no_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[world]\n")
    assert read_config(path).seed == 3
    path.write_text("seed = = 3\n")
    with pytest.raises(ConfigError, match="expected a TOML file"):
        read_config(path)
    with pytest.raises(ConfigError, match="expected a TOML file or one of .*tiny"):
        read_config("tinny")


def test_the_world_has_its_own_prompts() -> None:
    assert read_config("tiny").prompt == WORLD_PROMPT
    given = {"target": {"path": "x", "layer_index": 1}, "data": {"documents": "d"}}
    assert parse_config(given).prompt != WORLD_PROMPT


def test_configuration_is_frozen_and_survives_json() -> None:
    config = read_config("tiny", ["seed=7"])
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ar.num_steps = 3  # type: ignore[misc]
    assert parse_config(json.loads(json.dumps(config.plain()))) == config


def test_later_settings_are_kept_only_where_they_are_not_the_default() -> None:
    def kept(config: RunConfig) -> set[str]:
        plain = config.plain()
        sections = {name: plain[name] or {} for name in ("world", "av")}
        there = {f"{name}.{key}" for name, section in sections.items() for key in section}
        return (there | plain.keys()) & {*LATER}

    larger = {"world.num_attributes", "world.vocabulary_size"}
    for name in shipped_names():
        config = read_config(name)
        given = {"av.vocabulary_chunk"} if config.world is None else set()
        assert kept(config) == (larger if name == "larger" else given), name
    one = read_config("tiny", ["world.num_attributes=12", "judge.provider=world"])
    assert kept(one) == {"judge", "world.num_attributes"}
    for config in (one, read_config("larger")):
        assert parse_config(json.loads(json.dumps(config.plain()))) == config


def test_committed_evidence_is_of_these_settings() -> None:
    """To the letter: what is added to a configuration may not make it another one."""
    results = [*(REPOSITORY / "training" / "evidence").glob("*.json")]
    assert results
    for path in results:
        made = json.loads(path.read_text(encoding="utf-8"))
        config = read_config("evidence", [*made["settings"], f"seed={made['seed']}"])
        assert json.dumps(config.plain()) == json.dumps(made["config"]), path.name


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configurations_are_valid(name: str) -> None:
    config = read_config(name)
    assert (config.world is not None) == (name in ("tiny", "smoke", "evidence", "larger"))


def test_configurations_are_found_in_the_repository_and_in_the_package() -> None:
    assert (REPOSITORY / "training" / "configs").resolve() == SHIPPED.resolve()
    assert {"tiny", "smoke"} <= {*shipped_names()}


def test_a_wheel_has_the_configurations() -> None:
    files = WheelBuilder(str(REPOSITORY)).recurse_included_files()
    packed = {file.distribution_path for file in files}
    assert {f"gloss_training/configs/{name}.toml" for name in shipped_names()} <= packed


def test_every_setting_has_a_dotted_name() -> None:
    names = setting_names()
    assert {"seed", "target.layer_index", "world.shape.head_dim", "rl.kl.weight"} <= names.keys()
    assert names["rl.kl.weight"] == 0.1
    assert names["world.training.num_steps"] == 1000
    assert not any(dataclasses.is_dataclass(default) for default in names.values())


def test_differences_are_named_with_their_place() -> None:
    old, new = read_config("tiny").plain(), read_config("tiny", ["seed=2"]).plain()
    assert differences(old, new) == ["seed: 0 -> 2"]
    new = old | {"ar": old["ar"] | {"num_steps": 3}}
    assert differences(old, new) == [f"ar.num_steps: {old['ar']['num_steps']} -> 3"]
    assert differences(old, old) == []
