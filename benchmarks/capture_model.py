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
from typing import Any

import torch
from capture_passes import Cell
from capture_subject import Subject
from capture_timing import AGAIN, PLAIN, Way, overheads
from torch import Tensor

from gloss_engine import Positions
from gloss_engine.capture import tap

TAP, TAP_OPEN, TAP_INJECTED = "tap", "tap, kept open", "tap, injected"
HIDDEN_STATES, HOOK = "hidden_states, injected", "hook, host copy"


@torch.inference_mode()
def model_pass(subject: Subject, cell: Cell) -> Iterator[dict[str, Any]]:
    """A text run through the whole model."""
    buffer, device = subject.buffer, subject.device
    ids = subject.text_ids[: cell.length].to(device).unsqueeze(0)
    wanted = Positions(indices=cell.positions)
    if cell.num_rows == cell.length:
        wanted = Positions()
    places = torch.tensor(buffer.reserve(cell.num_rows), device=device)

    def run(model: Any, **options: Any) -> Any:
        return model(input_ids=ids, use_cache=False, logits_to_keep=1, **options)

    def plain() -> None:
        run(subject.model)

    def tapped() -> Tensor:
        with tap(subject.model, layer_index=subject.layer_index, positions=wanted) as captured:
            run(subject.model)
        return captured.activations

    def kept_open() -> Tensor | None:
        run(subject.tapped)
        # Reading joins the rows of all passes: once, to see that they are right.
        return captured_so_far.activations if captured_so_far.num_forwards == 1 else None

    def tapped_injected() -> Tensor:
        rows = tapped()
        buffer.write(rows, places)
        return rows

    def asked() -> Tensor:
        out = run(subject.asked, output_hidden_states=True)
        chosen = torch.tensor(cell.positions, device=device)
        rows = out.hidden_states[subject.layer_index + 1][0, chosen].float()
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        scaled = rows * (buffer.injection_scale / norms)
        buffer.rows.index_copy_(0, places, scaled.to(buffer.rows.dtype))
        return rows

    def hooked() -> Tensor:
        kept: list[Tensor] = []

        def take(module: Any, args: Any, output: Any) -> None:
            hidden_states = output[0] if isinstance(output, tuple) else output
            chosen = torch.tensor(cell.positions, device=device)
            kept.append(hidden_states[0, chosen].float().cpu())

        block = subject.model.model.layers[subject.layer_index]
        handle = block.register_forward_hook(take)
        try:
            run(subject.model)
        finally:
            handle.remove()
        return kept[0]

    def injected() -> Tensor:
        return buffer.rows[places]

    ways = {
        PLAIN: Way(run=plain),
        AGAIN: Way(run=plain),
        TAP: Way(run=tapped),
        TAP_OPEN: Way(run=kept_open),
        TAP_INJECTED: Way(run=tapped_injected, injected=injected),
        HIDDEN_STATES: Way(run=asked, injected=injected),
        HOOK: Way(run=hooked),
    }
    expected = asked()
    with tap(subject.tapped, layer_index=subject.layer_index, positions=wanted) as captured_so_far:
        found = overheads(
            ways,
            expected,
            injection_scale=buffer.injection_scale,
            device=device,
            seconds=cell.seconds,
        )
    for row in found:
        yield {"subject": subject.name, "pass": "transformers", "tokens": cell.length, **row}
    buffer.release(places.tolist())


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
