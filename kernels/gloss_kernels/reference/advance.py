"""What a chosen token does to a sequence's state: outputs, stops and counters, all on the device.

    outputs[num_generated] <- token, logprob;   num_generated <- num_generated + 1
    presence[token // 32]  <- presence[token // 32] | 1 << token % 32
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
    logprobs: Tensor,
    finite: Tensor,
    *,
    last_tokens: Tensor,
    token_ids: Tensor,
    token_logprobs: Tensor,
    stop_states: Tensor,
    num_generated: Tensor,
    limits: Tensor,
    stop_table: Tensor,
    is_eos: Tensor,
    presence: Tensor | None = None,
) -> Tensor:
    """Update the state of every row for the token it just generated.

    Args:
        tokens: [n] int64.
        logprobs: [n] float32.
        finite: [n] bool, whether the row's logits were.
        last_tokens: [n] int64; becomes `tokens`.
        token_ids: [n, max_new_tokens] int64; takes the token at `num_generated`, which is below
            max_new_tokens.
        token_logprobs: the same shape, float32; takes the logprob there.
        stop_states: [n] int64; updated in place.
        num_generated: [n] int64, tokens before this one; incremented in place.
        limits: [n] int64, the most tokens a row may generate.
        stop_table: [num_states + 1, vocab_size] uint8 next states; the last state is final.
        is_eos: [vocab_size] bool.
        presence: [n, ceil(vocab_size / 32)] int32 bitmap of tokens generated; the token's bit is
            set. None: nothing asks for it.

    Returns:
        [n] int64 `Finish` codes.
    """
    at, column = num_generated.unsqueeze(1), tokens.unsqueeze(1)
    last_tokens.copy_(tokens)
    token_ids.scatter_(1, at, column)
    token_logprobs.scatter_(1, at, logprobs.unsqueeze(1))
    if presence is not None:
        word = column // 32
        bit = torch.ones_like(word, dtype=torch.int32) << (column % 32).to(torch.int32)
        presence.scatter_(1, word, presence.gather(1, word) | bit)
    num_generated += 1
    stop_states.copy_(stop_table[stop_states, tokens])
    codes = torch.where(num_generated >= limits, int(Finish.LENGTH), int(Finish.RUNNING))
    final = stop_table.shape[0] - 1
    codes = codes.masked_fill_(stop_states == final, int(Finish.CLOSING_TAG))
    codes = codes.masked_fill_(is_eos[tokens], int(Finish.EOS))
    return codes.masked_fill_(~finite, int(Finish.ERROR))
