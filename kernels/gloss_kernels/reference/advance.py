"""What a chosen token does to a sequence's state: stops and counters, all on the device.

    stop_state <- stop_table[stop_state, token]
    finish     =  error if not finite, else eos if is_eos[token], else closing_tag if
                  stop_state = last, else length if num_generated = limit, else running

The stop table is a finite automaton over the text that tokens add, so a tag is found also when it
begins and ends inside tokens. Reads and writes a few bytes per row.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class Finish(IntEnum):
    """Why a row stopped; RUNNING while it has not."""

    RUNNING = 0
    EOS = 1
    CLOSING_TAG = 2
    LENGTH = 3
    ERROR = 4


FINISH_NAMES = {finish: finish.name.lower() for finish in Finish}


def advance(
    tokens: Tensor,
    finite: Tensor,
    *,
    stop_states: Tensor,
    num_generated: Tensor,
    limits: Tensor,
    stop_table: Tensor,
    is_eos: Tensor,
) -> Tensor:
    """Update the state of every row for the token it just generated.

    Args:
        tokens: [n] int64.
        finite: [n] bool, whether the row's logits were.
        stop_states: [n] int64; updated in place.
        num_generated: [n] int64; incremented in place.
        limits: [n] int64, the most tokens a row may generate.
        stop_table: [num_states + 1, vocab_size] uint8 next states; the last state is final.
        is_eos: [vocab_size] bool.

    Returns:
        [n] int64 `Finish` codes.
    """
    num_generated += 1
    stop_states.copy_(stop_table[stop_states, tokens])
    codes = torch.where(num_generated >= limits, int(Finish.LENGTH), int(Finish.RUNNING))
    final = stop_table.shape[0] - 1
    codes = codes.masked_fill_(stop_states == final, int(Finish.CLOSING_TAG))
    codes = codes.masked_fill_(is_eos[tokens], int(Finish.EOS))
    return codes.masked_fill_(~finite, int(Finish.ERROR))
