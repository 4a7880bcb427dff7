"""Requests of text in flight: from the text to activations that are explained, or handed out.

What the target runs is `target/work.py`'s; here its results become rows of open requests, events of
a step, and readings. Activations that are explained go the same way as a caller's own from there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

from torch import Tensor

from gloss_engine.capture.positions import Positions
from gloss_engine.errors import OUT_OF_MEMORY, ItemError, RequestError
from gloss_engine.open_requests import OpenRequest, OpenRequests, OpenRow
from gloss_engine.request import StepOutput
from gloss_engine.target.encoding import encode
from gloss_engine.target.events import ReadText, TargetEvents, WatchedToken
from gloss_engine.target.reader import TextToRead
from gloss_engine.target.reading_queue import CAPTURE, EXPLAIN, Job
from gloss_engine.target.readings import reading_of
from gloss_engine.target.watch import Watch
from gloss_engine.target.work import TargetWork
from gloss_engine.text_request import (
    CapturedToken,
    CaptureRequest,
    ExplainRequest,
    OpenedText,
    Reading,
    TokenPlace,
    WatchRequest,
)
from gloss_engine.validation import check_capture, check_text, check_watch

AddRows = Callable[[str, Sequence[OpenRow]], None]


@dataclass(kw_only=True)
class _Ready:
    """What goes out with the next step."""

    opened: list[OpenedText] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)


class TargetRequests:
    """The text requests of one engine.

    Args:
        work: the target's side.
        requests: where what is explained is kept.
        add_rows: gives a request activations to explain.
        watch_max_pending: of a Watch that states no bound.
    """

    def __init__(
        self,
        work: TargetWork,
        requests: OpenRequests,
        add_rows: AddRows,
        watch_max_pending: int,
    ) -> None:
        self.work, self._requests, self._add_rows = work, requests, add_rows
        self._watch_max_pending = watch_max_pending
        self._captures: dict[str, int] = {}
        self._ready = _Ready()

    def __contains__(self, request_id: object) -> bool:
        """Whether a capture of this name is in flight; the others are the open requests'."""
        return request_id in self._captures

    def __len__(self) -> int:
        ready = self._ready
        return len(self._captures) + len(ready.opened) + len(ready.readings) + len(ready.finished)

    def explain(self, request_id: str, request: ExplainRequest, scored: bool) -> None:
        """Queue a checked request's text.

        Raises:
            RequestError: no text, or no such positions.
        """
        check_text(request.input, request.positions)
        ids = encode(self.work.target, request.input)
        positions = _chosen(request.positions, len(ids), request.max_positions)
        self._open(request_id, request, scored, ids, positions)
        self.work.add_text(
            Job(
                request_id=request_id,
                kind=EXPLAIN,
                text=TextToRead(token_ids=ids, positions=positions),
                layer_index=self.work.target.layer_index,
                priority=request.priority,
            )
        )

    def watch(self, request_id: str, request: WatchRequest, scored: bool) -> None:
        """Queue a checked request's prompt.

        Raises:
            RequestError: no text, no such positions, or no room to generate behind it.
        """
        target = self.work.target
        generator = self.work.generator
        wanted = request.prompt_positions
        check_text(request.input, Positions() if wanted is None else wanted, "prompt_positions")
        check_watch(request, None if generator is None else generator.max_new_tokens)
        ids = encode(target, request.input, to_go_on=True)
        room = target.spec.max_positions - len(ids)
        if room < 1:
            raise RequestError(
                "TEXT_TOO_LONG",
                "input",
                f"input: got {len(ids)} tokens, expected at most {target.spec.max_positions - 1}: "
                f"the target has {target.spec.max_positions} positions, and is to go on",
            )
        if request.num_generated >= len(ids):
            raise RequestError(
                "INVALID_NUM_GENERATED",
                "num_generated",
                f"num_generated: got {request.num_generated}, expected fewer than the "
                f"{len(ids)} tokens of the prompt, which they end",
            )
        positions: tuple[int, ...] = ()
        if wanted is not None:
            positions = _chosen(wanted, len(ids), request.max_positions)
        opened = self._open(request_id, request, scored, ids, positions)
        pending = request.max_pending
        seed = request.target_sampling.seed
        self.work.add_watch(
            Watch(
                request_id=request_id,
                request=request,
                prompt_ids=ids,
                prompt_positions=frozenset(positions),
                max_pending=self._watch_max_pending if pending is None else pending,
                max_new_tokens=min(request.target_sampling.max_new_tokens, room),
                seed=secrets.randbits(64) if seed is None else seed,
                num_unfinished=lambda: opened.num_unfinished,
            )
        )

    def capture(self, request_id: str, request: CaptureRequest) -> None:
        """Queue the texts of a request; one that cannot be read fails alone.

        Raises:
            RequestError: a layer, texts or positions that are none.
        """
        target = self.work.target
        layer = check_capture(request, target.layer_index, target.num_layers)
        self._captures[request_id] = len(request.inputs)
        for index, given in enumerate(request.inputs):
            try:
                ids = encode(target, given)
                positions = request.positions.resolve(len(ids))
            except RequestError as error:
                self._add_reading(
                    Reading(request_id=request_id, index=index, error=ItemError.of_request(error))
                )
                continue
            self.work.add_text(
                Job(
                    request_id=request_id,
                    kind=CAPTURE,
                    text=TextToRead(token_ids=ids, positions=positions),
                    layer_index=layer,
                    priority=request.priority,
                    index=index,
                )
            )

    def take(self, events: TargetEvents, out: StepOutput) -> None:
        """Put what the target brought into a step's output, and what is explained into requests."""
        for read in events.texts:
            if read.job.kind == CAPTURE:
                if read.job.request_id in self._captures:
                    self._add_reading(reading_of(read, self.work.target.special_ids))
            else:
                self._take_rows(read, out)
        for watched in events.watched:
            self._take_watched(watched, out)
        for job in events.failed_texts:
            self._fail_text(job)
        for watch in events.failed_watches:
            self._fail(watch.request_id)
        out.target_tokens += events.tokens
        out.target_ends += events.ends
        out.skipped += events.skipped
        for watch in events.done:
            if watch.request_id in self._requests:
                self._requests.close(watch.request_id)

    def cancel(self, request_ids: Set[str]) -> None:
        """Take requests out; activations that are being explained are not its business."""
        self.work.cancel(request_ids)
        for request_id in request_ids:
            if self._captures.pop(request_id, None) is not None:
                self._ready.finished.append(request_id)
            elif request_id in self._requests and self._requests[request_id].grows:
                self._requests.close(request_id)

    def hand_out(self, out: StepOutput) -> None:
        """Move what is ready to a step's output."""
        ready, self._ready = self._ready, _Ready()
        out.opened += ready.opened
        out.readings += ready.readings
        out.finished += ready.finished

    def _open(
        self,
        request_id: str,
        request: ExplainRequest | WatchRequest,
        scored: bool,
        ids: tuple[int, ...],
        positions: tuple[int, ...],
    ) -> OpenRequest:
        seed = request.sampling.seed
        opened = OpenRequest(
            request=request,
            seed=secrets.randbits(64) if seed is None else seed,
            scored=scored,
            grows=True,
        )
        self._requests.add(request_id, opened)
        self._ready.opened.append(
            OpenedText(request_id=request_id, token_ids=ids, positions=positions)
        )
        return opened

    def _take_rows(self, read: ReadText, out: StepOutput) -> None:
        """The rows of a text that is explained, or of a prompt."""
        job, text = read.job, read.job.text
        if job.request_id not in self._requests:
            self.work.reader.release(text.places)
            return
        places = text.places or [0] * len(text.positions)
        rows = [
            self._row(raw, norm, position, text.token_ids[position], buffer_place)
            for raw, norm, position, buffer_place in zip(
                read.raw, read.norms, text.positions, places, strict=True
            )
        ]
        if job.watch is not None:
            for row in rows:
                row.since = job.watch.arrived
        self._add(job.request_id, rows, out)
        if job.kind == EXPLAIN:
            self._requests.close(job.request_id)

    def _take_watched(self, watched: WatchedToken, out: StepOutput) -> None:
        watch = watched.watch
        if watch.request_id not in self._requests:
            self.work.reader.release([watched.place])
            return
        position = watched.position
        token_id = watch.token_at(position)
        row = self._row(watched.raw, watched.norm, position, token_id, watched.place)
        row.since = watch.time_at(position)
        self._add(watch.request_id, [row], out)

    def _fail_text(self, job: Job) -> None:
        """A text that the device's memory did not suffice for."""
        if job.kind != CAPTURE:
            self._fail(job.request_id)
        elif job.request_id in self._captures:
            self._add_reading(
                Reading(request_id=job.request_id, index=job.index, error=OUT_OF_MEMORY)
            )

    def _fail(self, request_id: str) -> None:
        """The same where it is all of a request; what is being explained of it goes on."""
        if request_id in self._requests and self._requests[request_id].grows:
            self._requests.close(request_id, OUT_OF_MEMORY)

    def _row(
        self, raw: Tensor, norm: float, position: int, token_id: int, buffer_place: int
    ) -> OpenRow:
        layer = self.work.target.layer_index
        return OpenRow(
            activation=raw,
            norm=norm,
            item_key=position,
            position=position,
            token_id=token_id,
            place=TokenPlace(position, token_id, norm, layer),
            buffer_place=buffer_place,
        )

    def _add(self, request_id: str, rows: list[OpenRow], out: StepOutput) -> None:
        first = len(self._requests[request_id].rows)
        for index, row in enumerate(rows, start=first):
            assert row.place is not None
            out.captured.append(CapturedToken(request_id=request_id, index=index, place=row.place))
        self._add_rows(request_id, rows)

    def _add_reading(self, reading: Reading) -> None:
        self._ready.readings.append(reading)
        self._captures[reading.request_id] -= 1
        if self._captures[reading.request_id] == 0:
            del self._captures[reading.request_id]
            self._ready.finished.append(reading.request_id)


def _chosen(selection: Positions, length: int, most: int | None) -> tuple[int, ...]:
    """The positions of a text of `length` tokens, before any of it is read.

    Raises:
        RequestError: none there, or more than `most`.
    """
    positions = selection.resolve(length)
    if most is not None and len(positions) > most:
        raise RequestError(
            "BATCH_TOO_LARGE",
            "positions",
            f"positions: they choose {len(positions)} of the text's {length} tokens, expected at "
            f"most {most}; choose fewer, or send several requests",
        )
    return positions
