"""One Watch while its target generates: what was asked, which token is next, what is explained.

Launch j of a Watch runs the token before generated token j and draws that one: launch 0 runs the
last of the prompt. So the activation of generated token g is there in launch g + 1, and the last
one's needs a launch whose own token nobody sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gloss_engine.sampling import SamplingParams
from gloss_engine.text_request import WatchRequest

TARGET_KEY = 2**64 - 1
"""Item key of the target's draws: no position, so equal seeds share no noise with explanations."""


@dataclass(frozen=True, kw_only=True)
class TargetDraws:
    """What a row of slots needs to know of a target's sequence."""

    sampling: SamplingParams
    seed: int
    earlier_ids: tuple[int, ...]
    item_key: int = TARGET_KEY


@dataclass(eq=False, kw_only=True)
class Watch:
    """A prompt that the target goes on from.

    Attributes:
        request_id, request: whose, and what was asked.
        prompt_ids: the prompt's tokens, one or more.
        prompt_positions: those of it to explain.
        max_pending: most activations whose explanations are not finished.
        max_new_tokens: most tokens it generates.
        seed: of its draws.
        num_unfinished: asks how many activations are being explained.
        arrived: when it was asked for, monotonic seconds.
        slot, pages: what it holds while it runs.
        num_launched: steps launched with it.
        num_in_flight: activations captured in steps that nobody has read.
        token_ids: what it has generated, as far as the host has read it.
        token_times: when each was read, monotonic seconds.
        due: when its next step may run, monotonic seconds.
        finish_reason: why it generates no more tokens, or None.
        ended: no step of it counts any more.
    """

    request_id: str
    request: WatchRequest
    prompt_ids: tuple[int, ...]
    prompt_positions: frozenset[int]
    max_pending: int
    max_new_tokens: int
    seed: int
    num_unfinished: Callable[[], int]
    arrived: float = field(default_factory=time.monotonic)
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    num_launched: int = 0
    num_in_flight: int = 0
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    due: float = 0.0
    finish_reason: str | None = None
    ended: bool = False

    @property
    def sample(self) -> int:
        """Of the draws: a Watch is one sequence."""
        return 0

    @property
    def item(self) -> TargetDraws:
        """What its draws depend on."""
        sampling = replace(self.request.target_sampling, max_new_tokens=self.max_launches)
        earlier = self.prompt_ids[len(self.prompt_ids) - self.request.num_generated :]
        return TargetDraws(sampling=sampling, seed=self.seed, earlier_ids=earlier)

    @property
    def max_launches(self) -> int:
        """Steps it takes at most: one a token, and one for the last one's activation."""
        return self.max_new_tokens + self.is_every(self.max_new_tokens - 1)

    @property
    def num_keys(self) -> int:
        """Keys it stores at most."""
        return len(self.prompt_ids) - 1 + self.max_launches

    @property
    def is_launched(self) -> bool:
        """Whether all its steps have been launched."""
        return self.num_launched >= self.max_launches

    def is_every(self, generated: int) -> bool:
        """Whether generated token number `generated` is one of every n-th."""
        return (self.request.num_generated + generated) % self.request.every == 0

    def position(self, launch: int) -> int:
        """Position whose activation a launch captures."""
        return len(self.prompt_ids) - 1 + launch

    def token_at(self, position: int) -> int:
        """The token at a position that has been read."""
        at = position - len(self.prompt_ids)
        return self.prompt_ids[position] if at < 0 else self.token_ids[at]

    def time_at(self, position: int) -> float:
        """When the token at a position that has been read was there."""
        at = position - len(self.prompt_ids)
        return self.arrived if at < 0 else self.token_times[at]

    def wants(self, launch: int) -> bool:
        """Whether the activation that a launch runs over is to be explained."""
        if launch == 0:
            return len(self.prompt_ids) - 1 in self.prompt_positions
        return self.is_every(launch - 1)

    def has_room(self) -> bool:
        """Whether another activation may be captured."""
        return self.num_unfinished() + self.num_in_flight < self.max_pending

    def pace(self, now: float) -> None:
        """A step was launched: set when the next is due; a late one may catch up by one token."""
        rate = self.request.tokens_per_second
        if rate is not None:
            self.due = max(self.due, now - 1 / rate) + 1 / rate
