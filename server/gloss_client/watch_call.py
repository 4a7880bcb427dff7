"""A prompt for the target to go on from while its activations are explained: its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.fields import check_known, set_field
from gloss_client.generation import (
    ExplanationOptions,
    SamplingOptions,
    generation_options,
    name_call,
)
from gloss_client.positions import Positions, position_selection
from gloss_client.text_input import Text, text_input
from gloss_client.text_states import WatchState
from gloss_client.whole_call import WholeCall

WATCH_SECONDS = 600.0
"""Deadline of a watch that states none, as the server's own: a client's usual one would cut it."""


class WatchOptions(ExplanationOptions, total=False):
    """Keyword arguments of `watch`, besides those of every explanation.

    Attributes:
        target: how the target generates: `target={"temperature": 0, "max_new_tokens": 100}`. Its
            seed is the explanations' unless it states one.
        every: explain every n-th generated token, the first included. Default 1.
        prompt_positions: positions of the prompt to explain as well, in the forms of `explain`.
            Default: none.
        max_pending: most activations whose explanations are not finished; one that is read beyond
            is skipped. Default: the server's.
        tokens_per_second: most that the target generates. Default: as many as it can.
        num_generated: how many tokens at the end of the prompt, which is given as token ids, the
            target generated in a watch that broke off. This one then says, with that one's seeds,
            what that one would have. Default: none.
        timeout: default 600 seconds, not the client's.
    """

    target: SamplingOptions | None
    every: int | None
    prompt_positions: Positions | None
    max_pending: int | None
    tokens_per_second: float | None
    num_generated: int | None


@dataclass(frozen=True, kw_only=True)
class WatchCall(WholeCall[pb.WatchRequest]):
    """A prompt to go on from, checked as far as that goes without a server.

    Attributes:
        timeout: seconds for everything.
    """

    timeout: float

    method = "Watch"

    @classmethod
    def of(cls, prompt: Text, **options: Unpack[WatchOptions]) -> WatchCall:
        """Checks a caller's arguments.

        Raises:
            InvalidRequest: what was got, what was expected.
            TypeError: an argument, or an option of the target, that does not exist.
        """
        check_known(options, WatchOptions)
        message = pb.WatchRequest(
            prompt=text_input(prompt, "prompt"), options=generation_options(options)
        )
        name_call(message, options)
        target = options.get("target") or SamplingOptions()
        check_known(target, SamplingOptions, "target: ")
        message.target_options.CopyFrom(generation_options(target, "target."))
        if target.get("seed") is None:
            message.target_options.seed = message.options.seed
        for name in ("every", "max_pending", "tokens_per_second", "num_generated"):
            value = options.get(name)
            if value is not None:
                set_field(message, name, value)
        positions = options.get("prompt_positions")
        if positions is not None:
            selection = position_selection(positions, "prompt_positions")
            message.prompt_positions.CopyFrom(selection)
        timeout = options.get("timeout")
        return cls(message=message, timeout=WATCH_SECONDS if timeout is None else timeout)

    def state(self) -> WatchState:
        return WatchState()
