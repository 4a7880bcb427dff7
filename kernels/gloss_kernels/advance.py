"""What a chosen token does to a sequence's state, on a GPU, in one launch.

    presence[token // 32]  <- presence[token // 32] | 1 << token % 32
    num_generated <- num_generated + 1
    stop_state <- stop_table[stop_state, token]
    code       =  error if not finite, else eos if is_eos[token], else closing_tag if
                  stop_state = last, else length if num_generated >= limit, else running

Rows whose code is not `running` keep their state. Reads some 60 bytes a row and writes as many; a
lane a row. Rows share no word, so the presence map needs no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gloss_kernels.reference.advance import Finish

_BLOCK = 128
_NUM_WARPS = 4
"""A row a thread: the work is a chain of three dependent loads, and 512 rows are four programs."""


@triton.jit(do_not_specialize=["n"])
def _advance_kernel(
    tokens_ptr,
    logprobs_ptr,
    finite_ptr,
    codes_ptr,
    last_tokens_ptr,
    stop_states_ptr,
    num_generated_ptr,
    limits_ptr,
    stop_table_ptr,
    is_eos_ptr,
    presence_ptr,
    report_ptr,
    n,
    vocab_size,
    final,
    report_stride,
    presence_stride,
    HAS_PRESENCE: tl.constexpr,
    RUNNING: tl.constexpr,
    EOS: tl.constexpr,
    CLOSING_TAG: tl.constexpr,
    LENGTH: tl.constexpr,
    ERROR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    token = tl.load(tokens_ptr + row, mask=inside, other=0)
    code = tl.load(codes_ptr + row, mask=inside, other=-1)
    running = code == RUNNING
    count = tl.load(num_generated_ptr + row, mask=inside, other=0) + 1
    state = tl.load(stop_states_ptr + row, mask=inside, other=0)
    limit = tl.load(limits_ptr + row, mask=inside, other=0)
    finite = tl.load(finite_ptr + row, mask=inside, other=0)
    logprob = tl.load(logprobs_ptr + row, mask=inside, other=0.0)
    if HAS_PRESENCE:
        word_ptr = presence_ptr + row * presence_stride + token // 32
        word = tl.load(word_ptr, mask=running, other=0)
        bit = tl.full((BLOCK,), 1, tl.uint32) << (token % 32).to(tl.uint32)
        tl.store(word_ptr, word | bit.to(tl.int32, bitcast=True), mask=running)
    state = tl.load(stop_table_ptr + state * vocab_size + token, mask=running, other=0)
    is_eos = tl.load(is_eos_ptr + token, mask=running, other=0)
    tl.store(last_tokens_ptr + row, token, mask=running)
    tl.store(stop_states_ptr + row, state.to(tl.int64), mask=running)
    tl.store(num_generated_ptr + row, count, mask=running)
    new = tl.where(count >= limit, LENGTH, RUNNING)
    new = tl.where(state == final, CLOSING_TAG, new)
    new = tl.where(is_eos != 0, EOS, new)
    new = tl.where(finite != 0, new, ERROR)
    code = tl.where(running, new.to(tl.int64), code)
    tl.store(codes_ptr + row, code, mask=running)
    tl.store(report_ptr + row, token.to(tl.int32), mask=inside)
    bits = logprob.to(tl.int32, bitcast=True)
    tl.store(report_ptr + report_stride + row, bits, mask=inside)
    tl.store(report_ptr + 2 * report_stride + row, code.to(tl.int32), mask=inside)


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
    """See `gloss_kernels.reference.advance`; rows of every table must be contiguous."""
    (n,), (num_states, vocab_size) = tokens.shape, stop_table.shape
    for column in (tokens, codes, last_tokens, stop_states, num_generated, limits):
        _check(column, (n,), torch.int64, tokens.device)
    _check(logprobs, (n,), torch.float32, tokens.device)
    _check(finite, (n,), torch.bool, tokens.device)
    _check(report, (3, n), torch.int32, tokens.device)
    _check(is_eos, (vocab_size,), torch.bool, tokens.device)
    assert stop_table.dtype == torch.uint8 and stop_table.is_contiguous()
    assert stop_table.device == tokens.device
    if presence is not None:
        _check(presence, (n, -(-vocab_size // 32)), torch.int32, tokens.device)
    if n == 0:
        return
    _advance_kernel[(triton.cdiv(n, _BLOCK),)](
        tokens,
        logprobs,
        finite,
        codes,
        last_tokens,
        stop_states,
        num_generated,
        limits,
        stop_table,
        is_eos,
        tokens if presence is None else presence,
        report,
        n,
        vocab_size,
        num_states - 1,
        report.stride(0),
        0 if presence is None else presence.stride(0),
        HAS_PRESENCE=presence is not None,
        RUNNING=int(Finish.RUNNING),
        EOS=int(Finish.EOS),
        CLOSING_TAG=int(Finish.CLOSING_TAG),
        LENGTH=int(Finish.LENGTH),
        ERROR=int(Finish.ERROR),
        BLOCK=_BLOCK,
        num_warps=_NUM_WARPS,
    )


def _check(
    tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    assert tensor.shape == shape, f"{tuple(tensor.shape)}, not {shape}"
    assert tensor.dtype == dtype and tensor.device == device, f"{tensor.dtype} on {tensor.device}"
    assert tensor.stride(-1) == 1 or tensor.shape[-1] <= 1, f"strides {tensor.stride()}"
