"""What it costs to read activations off a transformers model: by tap, and as it is done otherwise.

tap            `with tap(model, ..) as captured: model(..)`; "kept open" is one tap over many
               passes; "injected" puts the rows into a prefill buffer as well.
hidden_states  `output_hidden_states=True`, then index, float32, norm, scale, and the copy into a
               prefill buffer.
hook           a forward hook on block K that takes the rows to the host.

But for the open tap, every way installs what it needs and takes it away again in each pass, as a
user does who reads one text. A pass has one row of logits and no cache, the least that a user could
run, so that shares are the most they can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from capture_passes import Cell
from capture_subject import Subject
from capture_timing import AGAIN, PLAIN, Way, overheads
from torch import Tensor

from gloss_engine import Positions
from gloss_engine.capture import Captured, tap

TAP, TAP_OPEN, TAP_INJECTED = "tap", "tap, kept open", "tap, injected"
HIDDEN_STATES, HOOK = "hidden_states, injected", "hook, host copy"


class _Ways:
    """The ways to read a text's rows off the whole model, each a method that runs it once.

    Args:
        subject: the model.
        cell: which text and which of its rows.
    """

    def __init__(self, subject: Subject, cell: Cell) -> None:
        self._subject, self._chosen = subject, cell.positions
        self._ids = subject.text_ids[: cell.length].to(subject.device).unsqueeze(0)
        self._wanted = Positions(indices=cell.positions)
        if cell.num_rows == cell.length:
            self._wanted = Positions()
        self.places = torch.tensor(subject.buffer.reserve(cell.num_rows), device=subject.device)

    def plain(self) -> None:
        self._run(self._subject.model)

    def tapped(self) -> Tensor:
        with self.tap(self._subject.model) as captured:
            self._run(self._subject.model)
        return captured.activations

    def tapped_injected(self) -> Tensor:
        rows = self.tapped()
        self._subject.buffer.write(rows, self.places)
        return rows

    def kept_open(self, captured: Captured) -> Tensor | None:
        """Under the tap of `captured`."""
        self._run(self._subject.tapped)
        # Reading joins the rows of all passes: once, to see that they are right.
        return captured.activations if captured.num_forwards == 1 else None

    def asked(self) -> Tensor:
        subject, buffer = self._subject, self._subject.buffer
        out = self._run(subject.asked, output_hidden_states=True)
        rows = self._choose(out.hidden_states[subject.layer_index + 1])
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        scaled = rows * (buffer.injection_scale / norms)
        buffer.rows.index_copy_(0, self.places, scaled.to(buffer.rows.dtype))
        return rows

    def hooked(self) -> Tensor:
        kept: list[Tensor] = []

        def take(module: Any, args: Any, output: Any) -> None:
            hidden_states = output[0] if isinstance(output, tuple) else output
            kept.append(self._choose(hidden_states).cpu())

        block = self._subject.model.model.layers[self._subject.layer_index]
        handle = block.register_forward_hook(take)
        try:
            self._run(self._subject.model)
        finally:
            handle.remove()
        return kept[0]

    def injected(self) -> Tensor:
        """What stands in the prefill buffer."""
        return self._subject.buffer.rows[self.places]

    def tap(self, model: Any) -> AbstractContextManager[Captured]:
        """A tap of the wanted rows."""
        return tap(model, layer_index=self._subject.layer_index, positions=self._wanted)

    def _run(self, model: Any, **options: Any) -> Any:
        return model(input_ids=self._ids, use_cache=False, logits_to_keep=1, **options)

    def _choose(self, hidden_states: Tensor) -> Tensor:
        """[1, t, d] -> [rows, d] float32; who does it by hand sends the positions each time."""
        return hidden_states[0, torch.tensor(self._chosen, device=self._subject.device)].float()


@torch.inference_mode()
def model_pass(subject: Subject, cell: Cell) -> Iterator[dict[str, Any]]:
    """A text run through the whole model."""
    ways = _Ways(subject, cell)
    expected = ways.asked()
    with ways.tap(subject.tapped) as captured:
        found = overheads(
            {
                PLAIN: Way(run=ways.plain),
                AGAIN: Way(run=ways.plain),
                TAP: Way(run=ways.tapped),
                TAP_OPEN: Way(run=partial(ways.kept_open, captured)),
                TAP_INJECTED: Way(run=ways.tapped_injected, injected=ways.injected),
                HIDDEN_STATES: Way(run=ways.asked, injected=ways.injected),
                HOOK: Way(run=ways.hooked),
            },
            expected,
            injection_scale=subject.buffer.injection_scale,
            device=subject.device,
            seconds=cell.seconds,
        )
    for row in found:
        yield {"subject": subject.name, "pass": "transformers", "tokens": cell.length, **row}
    subject.buffer.release(ways.places.tolist())


@torch.inference_mode()
def check_models_agree(subject: Subject, cell: Cell) -> dict[str, Any]:
    """The row that says how far the engine's rows are from transformers', of a row's norm, at most.

    Raises:
        RuntimeError: farther than rounding explains.
    """
    from gloss_engine.target.reader import TextReader, TextToRead

    ids = subject.text_ids[: cell.length]
    text = TextToRead(token_ids=tuple(ids.tolist()), positions=cell.positions)
    rows, _ = TextReader(subject.target, cell.length).read([text])
    out = subject.asked(
        input_ids=ids.to(subject.device).unsqueeze(0), use_cache=False, output_hidden_states=True
    )
    theirs = out.hidden_states[subject.layer_index + 1][0, list(cell.positions)].float()
    apart = float(((rows - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max())
    # Some twenty blocks in bfloat16, each of which rounds its sums in another order.
    allowed = 1e-4 if subject.target.decoder.dtype == torch.float32 else 0.1
    if not apart <= allowed:
        raise RuntimeError(
            f"{subject.name}: rows of engine and transformers differ by {apart:.1e} of their norm, "
            f"expected at most {allowed:g}: they do not run the same model"
        )
    return {"check": f"{subject.name}: rows of engine and transformers", "apart": apart}
