"""Which settings a stage reads, which of them it may go on without, and what has changed.

Plain values, as JSON has them: a run's directory keeps those that a stage was begun with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "target": ("seed", "num_threads", "device", "dtype", "world"),
    "data": (
        *("seed", "num_threads", "device", "dtype", "world", "target"),
        *("data", "teacher", "prompt"),
    ),
    "ar": ("ar", "lora", "sharding"),
    "av": ("av", "lora", "sharding"),
    "rl": ("rl", "lora", "sharding", "judge"),
    "evaluate": ("evaluate",),
}
"""What each stage reads of the configuration. The later ones read all that `data` does too."""

_SAVING: Final = ("checkpoint_every", "keep_checkpoints", "max_skipped")
_MEMORY: Final = ("micro_batch", "gradient_checkpointing", "vocabulary_chunk")
_REACHING: Final = (
    *("base_url", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute"),
    *("timeout_s", "max_attempts", "backoff_s", "max_backoff_s", "max_retry_after_s"),
    *("max_failures", "input_price", "output_price", "currency"),
)
_CHANGEABLE: Final = frozenset(
    (
        *("data.max_dropped_share", "data.max_unanswered_share", "sharding.timeout_s"),
        *(f"{of}.{name}" for of in ("teacher", "judge") for name in _REACHING),
        *(f"{of}.{name}" for of in ("world.training", "ar", "av", "rl") for name in _SAVING),
        *(f"{of}.{name}" for of in ("ar", "av", "rl") for name in _MEMORY),
    )
)
"""What a stage may go on with another value of: it changes no row, and weights by the order of
additions at most, as another number of processes does."""


def settings_of(stage: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage reads of a configuration."""
    names = SECTIONS[stage]
    if stage != "target":
        names = tuple(dict.fromkeys((*SECTIONS["data"], *names)))
    settings = {name: configuration.get(name) for name in names}
    if stage == "rl" and not configuration["rl"]["reward"]["judge"]:
        # Nobody is asked.
        settings["judge"] = None
    return settings


def changes(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a stage from going on with other settings, as "key: old -> new".

    Args:
        begun: settings that it was begun with, as `settings_of` gives them.
        now: those that it is to go on with.
    """
    return differences(_fixed(begun), _fixed(now))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ between two dumped configurations, as "key: old -> new"."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found.extend(differences(left, right, f"{prefix}{key}."))
        elif left != right:
            found.append(f"{prefix}{key}: {left} -> {right}")
    return found


def _fixed(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings without those that may change."""
    return {
        name: _fixed(value, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if f"{prefix}{name}" not in _CHANGEABLE
    }
