"""Runs the target over texts and copies activations out: whole texts packed, long ones in chunks.

A pass holds at most `max_tokens`. Texts that fit are packed into one pass without padding and run
up to block K, whose last block works for the wanted rows only. A longer text takes several passes,
each behind the keys and values of those before. A prompt that will be gone on from runs through all
blocks, and its keys and values are kept.
Nothing here waits for the device. Which texts go together, and when, is for the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from gloss_engine.models.batch import Capture, ForwardBatch, Prefix
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.target.target import Target
from gloss_engine.transfer import send
from gloss_kernels import PackedPlan


@dataclass(kw_only=True)
class TextToRead:
    """A text and what is wanted of it.

    Attributes:
        token_ids: one or more.
        positions: [n] whose activations are wanted, ascending; may be none.
        places: [n] rows of the AV's prefill buffer that take them, 0: none; empty: none for any.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    places: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CapturedRows:
    """Activations on the device.

    Attributes:
        raw: [n, d_model] float32.
        norms: [n] float32; NaN or Inf where a row holds one, 0 where it has no direction.
    """

    raw: Tensor
    norms: Tensor


@dataclass(kw_only=True)
class LongText:
    """A text that takes several passes, or whose keys are kept: how far it has been read.

    Attributes:
        text: what is read.
        layer_index: K.
        whole: run all blocks, for the keys and values of a prompt.
        num_read: tokens done.
        prefix: their keys and values, None before the first pass.
        found: what each pass captured.
    """

    text: TextToRead
    layer_index: int
    whole: bool = False
    num_read: int = 0
    prefix: Prefix | None = None
    found: list[CapturedRows]

    @property
    def is_read(self) -> bool:
        """Whether nothing is left."""
        return self.num_read == len(self.text.token_ids)


class TextReader:
    """Reads texts with one target.

    Args:
        target: what reads.
        max_tokens: most tokens of a pass.
        buffer: the AV's prefill buffer, which takes captured rows too; None: there is no AV.

    Attributes:
        num_tokens: tokens run so far.
    """

    def __init__(
        self, target: Target, max_tokens: int = 2048, buffer: PrefillBuffer | None = None
    ) -> None:
        self.target, self.max_tokens, self.buffer = target, max_tokens, buffer
        self.num_tokens = 0

    def reserve(self, texts: Sequence[TextToRead]) -> None:
        """Give the wanted rows of texts places in the prefill buffer, as far as there are some."""
        if self.buffer is None:
            return
        for text in texts:
            if not text.places:
                text.places = self.buffer.reserve(len(text.positions))

    def release(self, places: Sequence[int]) -> None:
        """Give places back that nobody will read."""
        if self.buffer is not None:
            self.buffer.release([place for place in places if place])

    def warm_up(self) -> None:
        """Compile what passes of any size run, with places for what they capture and without."""
        place = [] if self.buffer is None else self.buffer.reserve(1)
        for length in (2, self.max_tokens, self.max_tokens + 2):
            length = min(length, self.target.max_text_tokens)
            for places in ([], [*place, 0]):
                text = TextToRead(token_ids=(0,) * length, positions=(0, length - 1))
                text.places = places if len(places) == 2 else []
                self.read([text])
        self.release(place)
        self.num_tokens = 0

    def read(
        self, texts: Sequence[TextToRead], layer_index: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read texts of any number and length at once.

        Args:
            texts: what to read.
            layer_index: the block whose output is wanted; None: the target's K.

        Returns:
            [n, d_model] float32 on the device and [n] float32 norms, in the order of the texts and
            of their positions.
        """
        layer = self.target.layer_index if layer_index is None else layer_index
        parts: list[CapturedRows] = []
        batch: list[TextToRead] = []
        for text in texts:
            if sum(len(t.token_ids) for t in [*batch, text]) > self.max_tokens and batch:
                parts.append(self.read_packed(batch, layer))
                batch = []
            if len(text.token_ids) > self.max_tokens:
                long = LongText(text=text, layer_index=layer, found=[])
                while not long.is_read:
                    self.read_chunk(long)
                parts += long.found
            else:
                batch.append(text)
        if batch:
            parts.append(self.read_packed(batch, layer))
        device, width = self.target.decoder.device, self.target.spec.d_model
        raw = [part.raw for part in parts] or [torch.empty(0, width, device=device)]
        norms = [part.norms for part in parts] or [torch.empty(0, device=device)]
        return torch.cat(raw), torch.cat(norms)

    @torch.inference_mode()
    def read_packed(self, texts: Sequence[TextToRead], layer_index: int) -> CapturedRows:
        """One pass over whole texts, up to block `layer_index`.

        Args:
            texts: one or more.
        """
        decoder = self.target.decoder
        starts = list(accumulate((len(text.token_ids) for text in texts), initial=0))
        rows = [
            start + at for start, text in zip(starts, texts, strict=False) for at in text.positions
        ]
        places = [place for text in texts for place in text.places or [0] * len(text.positions)]
        ids = send([token for text in texts for token in text.token_ids], decoder.device)
        packed = PackedPlan(
            send(starts, decoder.device),
            num_tokens=len(ids),
            max_seqlen=max(len(text.token_ids) for text in texts),
        )
        within = torch.arange(len(ids), device=decoder.device) - packed.starts
        batch = ForwardBatch(
            positions=within,
            packed=packed,
            # Of no row an attention kernel needs to know: one that nobody wants is run instead.
            wanted=send(rows or [0], decoder.device),
            num_blocks=layer_index + 1,
        )
        hidden_states = decoder.forward(decoder.embed(ids), batch)
        captured = self._captured(hidden_states[: len(rows)], places)
        self.num_tokens += len(ids)
        return captured

    @torch.inference_mode()
    def read_chunk(self, long: LongText, num_tokens: int | None = None) -> bool:
        """One pass over the next tokens of a long text; None: as many as a pass may have.

        Returns:
            True: it is queued, and the text has been read so far.
        """
        decoder, text, first = self.target.decoder, long.text, long.num_read
        end = min(first + (num_tokens or self.max_tokens), len(text.token_ids))
        count = end - first
        capture = self._capture(long, first, end)
        batch = ForwardBatch(
            positions=torch.arange(first, end, device=decoder.device),
            packed=PackedPlan(send([0, count], decoder.device), num_tokens=count, max_seqlen=count),
            prefix=long.prefix,
            num_blocks=None if long.whole else long.layer_index + 1,
            capture=capture,
        )
        collected: list[tuple[Tensor, Tensor]] = []
        ids = send(text.token_ids[first:end], decoder.device)
        decoder.forward(decoder.embed(ids), batch, collected)
        if long.whole or end < len(text.token_ids):
            long.prefix = _grown(long.prefix, collected)
        # Nothing asks for memory any more, so a pass that fails has left the text as it was.
        self.num_tokens += count
        long.num_read = end
        long.found.append(CapturedRows(raw=capture.raw, norms=capture.norms))
        return True

    def _capture(self, long: LongText, first: int, end: int) -> Capture:
        """What a chunk copies out: the wanted positions within it."""
        text, device = long.text, self.target.decoder.device
        chosen = [i for i, at in enumerate(text.positions) if first <= at < end]
        buffer = self.buffer if text.places else None
        return Capture(
            layer_index=long.layer_index,
            rows=send([text.positions[i] - first for i in chosen], device),
            raw=torch.empty(len(chosen), self.target.spec.d_model, device=device),
            norms=torch.empty(len(chosen), device=device),
            buffer=None if buffer is None else buffer.rows,
            buffer_rows=(
                None if buffer is None else send([text.places[i] for i in chosen], device)
            ),
            injection_scale=1.0 if buffer is None else buffer.injection_scale,
        )

    def _captured(self, hidden_states: Tensor, places: list[int]) -> CapturedRows:
        """Rows of the residual stream copied out, and into the prefill buffer where it has room."""
        device, buffer = hidden_states.device, self.buffer
        rows = torch.arange(hidden_states.shape[0], device=device)
        if buffer is None or not any(places):
            raw, norms = self.target.decoder.operations.hook_gather(hidden_states, rows)
        else:
            raw, norms = self.target.decoder.operations.hook_gather(
                hidden_states,
                rows,
                buffer=buffer.rows,
                buffer_rows=send(places, device),
                injection_scale=buffer.injection_scale,
            )
        return CapturedRows(raw=raw, norms=norms)


def _grown(prefix: Prefix | None, collected: list[tuple[Tensor, Tensor]]) -> Prefix:
    """A prefix with the keys and values of more tokens behind it."""
    keys = torch.stack([pair[0].transpose(0, 1) for pair in collected])
    values = torch.stack([pair[1].transpose(0, 1) for pair in collected])
    if prefix is not None:
        keys = torch.cat((prefix.keys, keys), dim=2)
        values = torch.cat((prefix.values, values), dim=2)
    return Prefix(keys=keys.contiguous(), values=values.contiguous())
