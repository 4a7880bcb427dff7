"""Copies the wanted rows of a block's output out, pass by pass.

Which rows those are is worked out on the host, from what the pass was told of its tokens. The copy
itself is one launch of `hook_gather` on the device of the output; nothing waits for it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gloss_engine.capture.captured import Captured, Rows
from gloss_engine.capture.forward_inputs import BoolArray, ForwardInputs, IntArray
from gloss_engine.capture.positions import Positions
from gloss_engine.errors import TapError
from gloss_engine.transfer import send
from gloss_kernels import Operations


@dataclass(frozen=True, kw_only=True)
class _Text:
    """The texts of a pass, as far as the next may go on with them.

    Attributes:
        prompt_start: columns that were cached before the prompt; a column is a token of every
            sequence, padding included.
        num_columns: columns so far.
        num_real: [num_sequences] tokens so far that are no padding.
        cache: the KV cache that the pass was given, if any.
    """

    prompt_start: int
    num_columns: int
    num_real: IntArray
    cache: weakref.ref[Any] | None

    def goes_on(self, inputs: ForwardInputs) -> bool:
        """Whether the next pass stands behind the keys and values of this one."""
        if inputs.cache is None or inputs.num_cached() <= self.prompt_start:
            return False
        return self.cache is None or self.cache() is inputs.cache


class Recorder:
    """Captures from one block.

    Args:
        positions: what is wanted of a prompt; None: nothing.
        generated: whether all tokens of the passes that go on behind it are wanted.

    Attributes:
        captured: what there is so far.
    """

    def __init__(self, positions: Positions | None, generated: bool) -> None:
        self.positions, self.generated = positions, generated
        self.captured = Captured()
        self._operations: Operations | None = None
        self._last: _Text | None = None

    @torch.no_grad()
    def record(self, output: object, inputs: ForwardInputs) -> None:
        """Take one pass.

        Args:
            output: what the block returned: [num_sequences, num_tokens, d_model] of any float type,
                or a tuple that begins with it.
            inputs: what the pass was told.

        Raises:
            TapError, RequestError: an output, a mask or a position that does not fit the others.
        """
        hidden_states = _hidden_states(output)
        # Else a model that runs in inference mode would give rows that autograd refuses.
        with torch.inference_mode(False), torch.cuda.device_of(hidden_states):
            self._record(hidden_states.detach(), inputs)

    def _record(self, hidden_states: Tensor, inputs: ForwardInputs) -> None:
        num_sequences, num_tokens, _ = hidden_states.shape
        inputs.require_one_text_a_row()
        if self.generated and not inputs.uses_cache:
            raise TapError(
                "generated",
                got="a forward pass with use_cache=False",
                expected="one with a KV cache",
                fix="Without it every pass reads the whole text, and no token of it is a new one.",
            )
        last, num_cached = self._last, inputs.num_cached()
        if last is not None and not last.goes_on(inputs):
            last = None
        real, before = inputs.real_tokens(num_sequences, num_tokens)
        if before is None:
            before = _num_before(last, num_sequences, num_cached)
        positions = real.cumsum(axis=1) - 1 + before[:, None]
        if last is not None:
            self._require_whole_prompt(num_tokens, inputs)
        if last is None:
            wanted = self._of_prompt(real, positions, before)
        else:
            wanted = real if self.generated else np.zeros_like(real)
        self._last = _Text(
            prompt_start=num_cached if last is None else last.prompt_start,
            num_columns=num_cached + num_tokens,
            num_real=before + real.sum(axis=1),
            cache=None if inputs.cache is None else weakref.ref(inputs.cache),
        )
        sequences, columns = wanted.nonzero()
        places = np.empty((5, len(sequences)), dtype=np.int64)
        places[0] = self.captured.num_forwards
        places[1] = sequences
        places[2] = positions[sequences, columns]
        places[3] = -1
        places[4] = sequences * num_tokens + columns
        self.captured.add(self._gather(hidden_states, places, inputs.input_ids))

    def _require_whole_prompt(self, num_tokens: int, inputs: ForwardInputs) -> None:
        """Refuse what shows that a prompt is read in parts, where its end or all of it counts.

        Drafts are several tokens as well; `generate` asks for the logits of each of them.

        Raises:
            TapError: the part that was taken for the prompt was not all of it.
        """
        if num_tokens == 1 or inputs.logits_to_keep == num_tokens:
            return
        if self.generated:
            is_whole = self.positions == Positions()
        else:
            is_whole = self.positions is not None and not self.positions.counts_from_end
        if is_whole:
            return
        chosen = "generated" if self.positions is None else self.positions
        raise TapError(
            f"positions={str(chosen)!r}",
            got=f"a prompt that goes on behind its cache with {num_tokens} more tokens",
            expected="a prompt that is read in one pass",
            fix="Generate without prefill_chunk_size, or capture with positions='all' and "
            "generated=True and choose among the rows. Give the next turn of a chat, on the same "
            "cache, a with block of its own.",
        )

    def _of_prompt(self, real: BoolArray, positions: IntArray, before: IntArray) -> BoolArray:
        """Which tokens [num_sequences, num_tokens] of a prompt are wanted."""
        wanted = np.zeros_like(real)
        if self.positions is None:
            return wanted
        lengths = before + real.sum(axis=1)
        # A sequence of nothing but padding has no positions, not even a last one.
        read = real.any(axis=1)
        for length, start in set(zip(lengths[read].tolist(), before[read].tolist(), strict=True)):
            chosen = np.zeros(length + 1, dtype=np.bool_)
            selected = self.positions.select(length)
            if self.positions.indices is not None and selected[0] < start:
                raise TapError(
                    "positions",
                    got=f"{selected[0]}",
                    expected=f"{start} to {length - 1}",
                    fix="The tokens before stand in the KV cache, and do not pass the block.",
                )
            chosen[np.asarray(selected, dtype=np.int64)] = True
            alike = (lengths == length) & (before == start)
            wanted[alike] = real[alike] & chosen[positions[alike].clip(min=0)]
        return wanted

    def _gather(self, hidden_states: Tensor, places: IntArray, input_ids: Tensor | None) -> Rows:
        """The rows at `places` [5, n], whose last line numbers them, and their tokens."""
        device = hidden_states.device
        if self._operations is None:
            on_gpu = device.type == "cuda" and find_spec("triton") is not None
            self._operations = Operations("triton" if on_gpu else "reference")
        sent = send(places, device)
        raw, norms = self._operations.hook_gather(hidden_states.flatten(0, 1), sent[4])
        if input_ids is not None and input_ids.shape == hidden_states.shape[:2]:
            ids = input_ids.to(device, non_blocking=True)
            sent[3] = ids.flatten().index_select(0, sent[4])
        return Rows(raw=raw, norms=norms, places=sent[:4])


def _num_before(last: _Text | None, num_sequences: int, num_cached: int) -> IntArray:
    """[num_sequences] tokens before a pass whose mask does not say which were padding."""
    if last is None or len(last.num_real) != num_sequences:
        return np.full(num_sequences, num_cached, dtype=np.int64)
    # Drafts that were not accepted have left the cache.
    return last.num_real - (last.num_columns - num_cached)


def _hidden_states(output: object) -> Tensor:
    """What a block returned, where the residual stream may stand beside other things."""
    hidden_states = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(hidden_states, Tensor) or hidden_states.ndim != 3:
        shape = (
            f" of shape {list(hidden_states.shape)}" if isinstance(hidden_states, Tensor) else ""
        )
        raise TapError(
            "the block's output",
            got=f"a {type(hidden_states).__name__}{shape}",
            expected="[num_sequences, num_tokens, d_model]",
            fix="Pass a block whose output is the residual stream.",
        )
    if hidden_states.is_cuda and torch.cuda.is_current_stream_capturing():
        raise TapError(
            "forward pass",
            got="one that is captured into a CUDA graph",
            expected="one that runs",
            fix="A graph's replays call no hook: run the model without one to capture from it.",
        )
    return hidden_states
