"""What the engine's own capture costs its target's forward pass: reading, whole passes, steps.

reading      the blocks up to K over a text, as the text reader runs them: the last one for the
             wanted rows alone, both with the capture behind it and without.
whole pass   all blocks over a text, without the head, and the capture in the middle.
step         a token of each of `rows` sequences that the target generates, sampling included: on a
             GPU a replay of the graph that the engine replays. "handed on" adds what the engine
             does for captured rows around it: their places in, their rows and norms out.

All run the engine's own code. Without capture they run the same code less the capture: no
`hook_gather`, and none of the index tensors and memory it needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from capture_subject import Subject
from capture_timing import AGAIN, PLAIN, Way, overheads
from torch import Tensor

from gloss_engine import EngineConfig, SamplingParams, TextInput, WatchRequest
from gloss_engine.decode_rows import decode_rows, draw
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.models.batch import Capture, ForwardBatch
from gloss_engine.slots import Slots
from gloss_engine.step_graphs import StepGraphs
from gloss_engine.step_shape import DRAW_ONLY, StepShape
from gloss_engine.target.generator import Generator
from gloss_engine.target.loading import Explained, target_machinery
from gloss_engine.target.reader import CapturedRows, TextReader, TextToRead
from gloss_engine.target.step import TargetStep
from gloss_engine.target.watch import Watch
from gloss_engine.target.work import TargetWork
from gloss_engine.transfer import Arriving, send
from gloss_kernels import PackedPlan

CAPTURED, INJECTED, HANDED_ON = "captured", "captured and injected", "injected and handed on"
_STEPS = 4
"""Steps of a measurement on a GPU, so that replaying the first hides behind nothing but itself."""
_NEW_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one comparison is about.

    Attributes:
        length: tokens of the text.
        num_rows: rows that are wanted, spread over the text.
        seconds: to time it for.
    """

    length: int
    num_rows: int
    seconds: float

    @property
    def positions(self) -> tuple[int, ...]:
        """Which rows."""
        return tuple(index * self.length // self.num_rows for index in range(self.num_rows))


class SilentReader(TextReader):
    """Runs a reader's passes and copies nothing out."""

    def _captured(self, hidden_states: Tensor, places: list[int]) -> CapturedRows:
        return CapturedRows(raw=hidden_states, norms=hidden_states[:0, 0])


@torch.inference_mode()
def reading(subject: Subject, cell: Cell) -> Iterator[dict[str, Any]]:
    """A text read up to block K."""
    target, buffer = subject.target, subject.buffer
    ids = tuple(subject.text_ids[: cell.length].tolist())
    places = buffer.reserve(cell.num_rows)
    text = TextToRead(token_ids=ids, positions=cell.positions)
    placed = TextToRead(token_ids=ids, positions=cell.positions, places=places)
    reader, silent = (kind(target, cell.length, buffer) for kind in (TextReader, SilentReader))

    def read(by: TextReader, what: TextToRead) -> Tensor:
        return by.read_packed([what], subject.layer_index).raw

    ways = {
        PLAIN: Way(run=lambda: read(silent, text)),
        AGAIN: Way(run=lambda: read(silent, text)),
        CAPTURED: Way(run=lambda: read(reader, text)),
        INJECTED: Way(run=lambda: read(reader, placed), injected=lambda: buffer.rows[places]),
    }
    expected = read(silent, text).float()
    yield from _rows("reading", subject, cell, ways, expected)
    buffer.release(places)


@torch.inference_mode()
def whole_pass(subject: Subject, cell: Cell) -> Iterator[dict[str, Any]]:
    """A text run through all blocks, captured on the way."""
    decoder, buffer, device = subject.target.decoder, subject.buffer, subject.device
    ids = subject.text_ids[: cell.length].tolist()
    places = buffer.reserve(cell.num_rows)

    def run(wanted: Capture | None, num_blocks: int | None = None) -> Tensor:
        count = len(ids)
        plan = PackedPlan(send([0, count], device), num_tokens=count, max_seqlen=count)
        batch = ForwardBatch(
            positions=torch.arange(count, device=device),
            packed=plan,
            num_blocks=num_blocks,
            capture=wanted,
        )
        return decoder.forward(decoder.embed(send(ids, device)), batch)

    def captured(*, injects: bool) -> Tensor:
        wanted = Capture(
            layer_index=subject.layer_index,
            rows=send(list(cell.positions), device),
            raw=torch.empty(cell.num_rows, decoder.spec.d_model, device=device),
            norms=torch.empty(cell.num_rows, device=device),
        )
        if injects:
            wanted = replace(
                wanted,
                buffer=buffer.rows,
                buffer_rows=send(places, device),
                injection_scale=buffer.injection_scale,
            )
        run(wanted)
        return wanted.raw

    ways = {
        PLAIN: Way(run=lambda: run(None)),
        AGAIN: Way(run=lambda: run(None)),
        CAPTURED: Way(run=lambda: captured(injects=False)),
        INJECTED: Way(run=lambda: captured(injects=True), injected=lambda: buffer.rows[places]),
    }
    expected = run(None, subject.layer_index + 1)[list(cell.positions)].float()
    yield from _rows("whole pass", subject, cell, ways, expected)
    buffer.release(places)


class PlainStep(TargetStep):
    """The target's step without its capture."""

    @torch.inference_mode()
    def run(self, shape: StepShape, first: int = 0) -> None:
        """See `TargetStep.run`; it is always whole here."""
        assert first == 0
        slots, n = self.slots, shape.num_rows
        hidden_states, running = self._forward(shape)
        draw(self.decoder, slots, hidden_states, shape.parts, self._stops)
        slots.private_lens[:n] += running

    @torch.inference_mode()
    def residual(self, shape: StepShape) -> Tensor:
        """[num_rows, d_model] the output of block K in the step that would be next."""
        return self._forward(shape, self.target.layer_index + 1)[0]

    def _forward(self, shape: StepShape, num_blocks: int | None = None) -> tuple[Tensor, Tensor]:
        rows = decode_rows(
            self.slots,
            shape.num_rows,
            page_size=self.page_size,
            num_kv_heads=self.decoder.spec.num_kv_heads,
            prefix_len=0,
            max_private_len=shape.max_private_len,
        )
        batch = ForwardBatch(
            positions=rows.positions,
            decode=rows.plan,
            cache=self.cache,
            slot_mapping=rows.places,
            num_blocks=num_blocks,
        )
        return self.decoder.forward(self.decoder.embed(rows.ids), batch), rows.running


@torch.inference_mode()
def step(subject: Subject, settings: EngineConfig, cell: Cell) -> Iterator[dict[str, Any]]:
    """A step of the target, with `cell.num_rows` sequences behind prompts of `cell.length`."""
    count, buffer, device = cell.num_rows, subject.buffer, subject.device
    work = _work(subject, replace(settings, num_watches=count), cell.length)
    generator = work.generator
    assert generator is not None
    full, slots, sizes = generator.step, generator.slots, generator.sizes
    plain = PlainStep(subject.target, full.cache, slots, buffer)
    graphs, plain_graphs = generator.graphs, StepGraphs(plain, sizes)
    generator.warm_up()
    if sizes.rows is not None:
        plain_graphs.warm_up()
    _start_watches(work, generator, subject, cell)
    places = buffer.reserve(count)
    bound = cell.length + _NEW_TOKENS
    shape = sizes.shape(count, 0, slots.parts() or DRAW_ONLY, bound)
    kept = _state(slots)
    full.places.copy_(send(places, device))

    def captured() -> Tensor:
        graphs.run(shape)
        return full.raw

    def handed_on() -> Tensor:
        full.places.copy_(send(places, device))
        graphs.run(shape)
        chosen = send(list(range(count)), device)
        Arriving(full.norms.index_select(0, chosen))
        return full.raw.index_select(0, chosen)

    def reset() -> None:
        for name, tensor in kept.items():
            getattr(slots, name).copy_(tensor)

    ways = {
        PLAIN: Way(run=lambda: plain_graphs.run(shape), reset=reset),
        AGAIN: Way(run=lambda: plain_graphs.run(shape), reset=reset),
        INJECTED: Way(run=captured, injected=lambda: buffer.rows[places], reset=reset),
        HANDED_ON: Way(run=handed_on, injected=lambda: buffer.rows[places], reset=reset),
    }
    expected = plain.residual(shape).float()
    _check_tokens(ways, slots)
    yield from _rows("step", subject, cell, ways, expected, _STEPS if _is_cuda(device) else 1)
    buffer.release(places)


def _rows(
    what: str,
    subject: Subject,
    cell: Cell,
    ways: dict[str, Way],
    expected: Tensor,
    inner: int = 1,
) -> Iterator[dict[str, Any]]:
    found = overheads(
        ways,
        expected,
        injection_scale=subject.buffer.injection_scale,
        device=subject.device,
        seconds=cell.seconds,
        inner=inner,
    )
    for row in found:
        yield {"subject": subject.name, "pass": what, "tokens": cell.length, **row}


def _work(subject: Subject, settings: EngineConfig, length: int) -> TargetWork:
    """The target's side of an engine, for prompts of `length`."""
    settings = replace(settings, max_text_tokens=length, max_watch_tokens=_NEW_TOKENS)
    decoder, longest = subject.target.decoder, length + _NEW_TOKENS
    page_size = 16 if _is_cuda(subject.device) else longest
    num_pages = 1 + settings.num_watches * -(-longest // page_size)
    cache = allocate_pool(decoder.spec, num_pages, page_size, subject.device, decoder.dtype)
    settings = replace(settings, page_size=page_size)
    return target_machinery(Explained(target=subject.target, cache=cache), subject.buffer, settings)


def _start_watches(work: TargetWork, generator: Generator, subject: Subject, cell: Cell) -> None:
    """Let every sequence generate a token, so that all stand behind their prompts."""
    ids = tuple(subject.text_ids[: cell.length].tolist())
    watches = []
    for number in range(cell.num_rows):
        sampling = SamplingParams(max_new_tokens=_NEW_TOKENS, seed=number)
        request = WatchRequest(input=TextInput(token_ids=ids), target_sampling=sampling)
        watch = Watch(
            request_id=f"watch-{number}",
            request=request,
            prompt_ids=ids,
            prompt_positions=frozenset(),
            max_pending=cell.num_rows,
            max_new_tokens=_NEW_TOKENS,
            seed=number,
            num_unfinished=lambda: 0,
        )
        watches.append(watch)
        work.add_watch(watch)
    while not all(watch.num_launched for watch in watches):
        assert work.can_run(time.monotonic())
        for taken in work.read(work.launch(time.monotonic())).watched:
            work.reader.release([taken.place])
    assert len(generator.running) == cell.num_rows, "a sequence has ended within a few tokens"


def _state(slots: Slots) -> dict[str, Tensor]:
    """The slots' tensors as they are."""
    return {name: t.clone() for name, t in vars(slots).items() if isinstance(t, Tensor)}


def _check_tokens(ways: dict[str, Way], slots: Slots) -> None:
    """All ways must draw the same tokens."""
    drawn = []
    for way in ways.values():
        way.reset()
        way.run()
        drawn.append(slots.report[0].tolist())
    if any(tokens != drawn[0] for tokens in drawn):
        raise RuntimeError(f"steps with and without capture drew other tokens: {drawn}")


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"
