"""The arms: what each does otherwise than the others, and what it is there to show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

KL: Final = ("rl.kl.kind=exact", "rl.kl.weight=0.1")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train a pair.

    Attributes:
        says: what it is.
        base: whose target, data and SFT stages it starts from.
        settings: overrides of the configuration, of section rl alone.
        has_rl: whether there is any RL.
        is_oracle: whether its reward knows the truth: no such reward exists outside the tiny world.
    """

    says: str
    base: str = "planted"
    settings: tuple[str, ...] = ()
    has_rl: bool = True
    is_oracle: bool = False


BASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"planted": (), "plain": ("world.state_head_weight=0.0",)}
)
"""Overrides of what all arms of a base share: `plain` is a target without the state head."""

ARMS: Final[Mapping[str, Arm]] = MappingProxyType(
    {
        "sft": Arm(says="after the supervised stages", has_rl=False),
        "rl_kl": Arm(says="RL with an exact KL of 0.1 to the SFT model", settings=KL),
        "ar_only": Arm(
            says="the control: the AR learns on rollouts, the AV stays",
            settings=("rl.trains_av=false",),
        ),
        "rl": Arm(says="RL without a KL", settings=("rl.kl.kind=none",)),
        "rl_quality": Arm(
            says="RL with the KL, rewards for form, brevity and variety, and the grammar as judge",
            settings=(
                *KL,
                *("rl.reward.format=0.2", "rl.reward.brevity=0.2", "rl.reward.repetition=0.5"),
                "rl.reward.judge=0.5",
            ),
            is_oracle=True,
        ),
        "plain_lm_sft": Arm(
            says="a target without planted facts, after the supervised stages",
            base="plain",
            has_rl=False,
        ),
        "plain_lm_rl_kl": Arm(
            says="a target without planted facts, RL with the KL", base="plain", settings=KL
        ),
    }
)
"""In the order in which they are run: what acceptance needs comes first."""
