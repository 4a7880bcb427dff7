"""Configuration refuses what it does not know and names what differs."""

import pytest
from pydantic import ValidationError

from gloss_training.config import ModelConfig, TinyConfig, differences, smoke


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="batch_sise"):
        TinyConfig.model_validate({"ar": {"num_steps": 1, "batch_sise": 2, "learning_rate": 1.0}})
    with pytest.raises(ValidationError, match="colour"):
        TinyConfig.model_validate({"colour": 1})


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TinyConfig().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layer_index": 3}, "before the last"),
        ({"num_heads": 6, "num_kv_heads": 4}, "do not divide"),
        ({"head_dim": 24}, "multiple of 16"),
    ],
)
def test_impossible_models_are_refused(settings: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate(settings)


def test_configuration_survives_json() -> None:
    config = smoke(7)
    assert TinyConfig.model_validate_json(config.model_dump_json()) == config


def test_differences_are_named_with_their_place() -> None:
    old, new = TinyConfig().model_dump(), TinyConfig(seed=2).model_dump()
    assert differences(old, new) == ["seed: 0 -> 2"]
    new = old | {"ar": old["ar"] | {"num_steps": 3}}
    assert differences(old, new) == [f"ar.num_steps: {old['ar']['num_steps']} -> 3"]
    assert differences(old, old) == []
