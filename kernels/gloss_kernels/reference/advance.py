"""What a chosen token does to a sequence's state: stops, counters and the report, on the device.

    presence[token // 32]  <- presence[token // 32] | 1 << token % 32
    num_generated <- num_generated + 1
    stop_state <- stop_table[stop_state, token]
    code       =  error if not finite, else eos if is_eos[token], else closing_tag if
                  stop_state = last, else length if num_generated = limit, else running

Rows whose code is not `running` are over, or were never used: nothing of them changes. The stop
table is a finite automaton over the text that tokens add, so a tag is found also when it begins and
ends inside tokens. Reads and writes a few bytes per row.

All that is new is computed before any of the state is written: where memory does not suffice for
it, the state is as it was.
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
    codes: Tensor,
    last_tokens: Tensor,
    stop_states: Tensor,
    num_generated: Tensor,
    limits: Tensor,
    stop_table: Tensor,
    is_eos: Tensor,
    report: Tensor,
    presence: Tensor | None = None,
) -> None:
    """Update the state of every running row for the token it just generated.

    Args:
        tokens: [n] int64.
        logprobs: [n] float32.
        finite: [n] bool, whether the row's logits were.
        codes: [n] int64 `Finish` codes; running rows get their new one.
        last_tokens: [n] int64; becomes `tokens`.
        stop_states: [n] int64; updated in place.
        num_generated: [n] int64, tokens before this one; incremented in place.
        limits: [n] int64, the most tokens a row may generate.
        stop_table: [num_states + 1, vocab_size] uint8 next states; the last state is final.
        is_eos: [vocab_size] bool.
        report: [3, n] int32, all that the host reads of a step; takes the token, the bits of its
            logprob, and the code. Token and logprob of a row that does not run mean nothing.
        presence: [n, ceil(vocab_size / 32)] int32 bitmap of tokens generated; the token's bit is
            set. None: nothing asks for it.
    """
    running = codes == int(Finish.RUNNING)
    after = torch.where(running, stop_table[stop_states, tokens].long(), stop_states)
    new = torch.where(num_generated + 1 >= limits, int(Finish.LENGTH), int(Finish.RUNNING))
    final = stop_table.shape[0] - 1
    new = new.masked_fill_(after == final, int(Finish.CLOSING_TAG))
    new = new.masked_fill_(is_eos[tokens], int(Finish.EOS))
    new = new.masked_fill_(~finite, int(Finish.ERROR))
    new = torch.where(running, new, codes)
    last = torch.where(running, tokens, last_tokens)
    if presence is not None:
        word = (tokens // 32).unsqueeze(1)
        bit = running.to(torch.int32) << (tokens % 32).to(torch.int32)
        bits = presence.gather(1, word) | bit.unsqueeze(1)
        presence.scatter_(1, word, bits)
    last_tokens.copy_(last)
    num_generated += running
    stop_states.copy_(after)
    codes.copy_(new)
    report[0], report[1], report[2] = tokens, logprobs.view(torch.int32), new
