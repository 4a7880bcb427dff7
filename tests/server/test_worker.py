"""The worker's loop: each request to its method, refusals and results back, a step in a message."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gloss_engine.errors import RequestError
from gloss_engine.request import StepOutput, TextRequest, TokenDelta, VerbalizeRequest
from gloss_engine.stats import EngineStats
from gloss_engine.text_request import (
    CapturedToken,
    CaptureRequest,
    ExplainRequest,
    OpenedText,
    Reading,
    SkippedToken,
    TargetEnd,
    TargetToken,
    TextInput,
    TokenPlace,
    WatchRequest,
)
from gloss_server import worker
from gloss_server.link.channel import Closed, EngineChannel, encode
from gloss_server.link.messages import Alive, Commands, EngineRequest, StepReport, Submit
from gloss_server.worker import Worker

TEXT = TextInput(text="words")


class Scripted:
    """An engine that notes what it is asked for, and says what a test has written down."""

    info = None

    def __init__(self, outputs: list[StepOutput]) -> None:
        self.outputs, self.calls = outputs, []  # type: ignore[var-annotated]

    @property
    def has_work(self) -> bool:
        return bool(self.calls and self.outputs)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("submit"):
            raise AttributeError(name)

        def submit(request: EngineRequest, request_id: str) -> str:
            self.calls.append((name, request_id))
            if request_id == "13":
                raise RequestError("EMPTY_TEXT", "input", "input: got none")
            return request_id

        return submit

    def cancel(self, request_id: str) -> None:
        self.calls.append(("cancel", request_id))

    def step(self) -> StepOutput:
        return self.outputs.pop(0) if self.outputs else StepOutput()

    def stats(self) -> EngineStats:
        return EngineStats(captured=3)

    def warm_up(self) -> float:
        return 0.0


class Front:
    """The front's end of a worker that runs in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        # The same framing both ways.
        self._socket, self._channel = sock, EngineChannel(sock)
        self._arrived: list[Any] = []

    def tell(self, submits: dict[int, EngineRequest], cancels: tuple[int, ...] = ()) -> None:
        made = [
            Submit(run_id=run_id, request=request, sent=0.0) for run_id, request in submits.items()
        ]
        self._socket.sendall(encode(Commands(submits=made, cancels=list(cancels))))

    def hear(self) -> StepReport:
        """The next step's report."""
        while True:
            while not self._arrived:
                self._arrived += self._channel.receive(10)
            report = self._arrived.pop(0)
            if not isinstance(report, Alive):
                assert isinstance(report, StepReport)
                return report


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _serve(
    ends: tuple[socket.socket, socket.socket], outputs: list[StepOutput]
) -> tuple[Front, Scripted, threading.Thread]:
    engine = Scripted(outputs)

    def run() -> None:
        with pytest.raises(Closed):
            Worker(engine, EngineChannel(ends[1])).run()  # type: ignore[arg-type]

    thread = threading.Thread(target=run)
    thread.start()
    return Front(ends[0]), engine, thread


def test_each_request_goes_where_it_belongs(ends: tuple[socket.socket, socket.socket]) -> None:
    front, engine, thread = _serve(ends, [StepOutput(num_rows=1)])
    front.tell(
        {
            1: VerbalizeRequest(activations=np.ones((1, 2), np.float32)),
            2: TextRequest(texts=("a",)),
            3: ExplainRequest(input=TEXT),
            4: WatchRequest(input=TEXT),
            5: CaptureRequest(inputs=(TEXT,)),
            13: ExplainRequest(input=TEXT),
        },
        cancels=(3,),
    )
    report = front.hear()
    ends[0].close()
    thread.join(10)
    assert engine.calls == [
        *(("submit", "1"), ("submit_texts", "2"), ("submit_explain", "3")),
        *(("submit_watch", "4"), ("submit_capture", "5"), ("submit_explain", "13")),
        ("cancel", "3"),
    ]
    (refusal,) = report.refusals
    assert (refusal.run_id, refusal.reason, refusal.field) == (13, "EMPTY_TEXT", "input")
    assert report.stats.captured == 3


def test_what_a_step_brings_comes_in_one_message(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    place = TokenPlace(4, 9, 1.5, 2)
    output = StepOutput(
        num_rows=2,
        started=[("7", 0), ("7", 1)],
        tokens=[TokenDelta("7", 2, 1, 42)],
        opened=[OpenedText(request_id="8", token_ids=(1, 2), positions=(1,))],
        captured=[CapturedToken(request_id="7", index=2, place=place)],
        target_tokens=[
            TargetToken(request_id="7", position=5, token_id=11),
            TargetToken(request_id="8", position=2, token_id=12),
        ],
        target_ends=[TargetEnd(request_id="7", finish_reason="eos")],
        skipped=[SkippedToken(request_id="7", position=5, reason="target_ended")],
        finished=["8"],
    )
    front, _, thread = _serve(ends, [output])
    front.tell({7: WatchRequest(input=TEXT, num_samples=3), 8: WatchRequest(input=TEXT)})
    report = front.hear()
    ends[0].close()
    thread.join(10)
    assert report.started == {7: 2} and report.finished == [8]
    assert (report.tokens.run_ids.tolist(), report.tokens.sequences.tolist()) == ([7], [2 * 3 + 1])
    columns = report.target_tokens
    assert columns.run_ids.tolist() == [7, 8] and columns.positions.tolist() == [5, 2]
    assert columns.token_ids.tolist() == [11, 12]
    assert (report.opened, report.captured) == (output.opened, output.captured)
    assert (report.target_ends, report.skipped) == (output.target_ends, output.skipped)


def test_rows_of_a_long_text_come_with_several_steps(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other runs' steps come between, and its end is told when all of it was."""
    monkeypatch.setattr(worker, "MOST_READING_BYTES", 2 * 3 * 4)
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    reading = Reading(
        request_id="7",
        index=0,
        token_ids=tuple(range(9)),
        positions=(0, 2, 4, 6, 8),
        activations=rows,
        norms=np.arange(5, dtype=np.float32),
        is_special=(True, *[False] * 4),
    )
    first = StepOutput(readings=[reading], finished=["7"])
    front, _, thread = _serve(ends, [first, StepOutput(num_rows=1)])
    front.tell({7: CaptureRequest(inputs=(TEXT,))})
    reports = [front.hear() for _ in range(3)]
    ends[0].close()
    thread.join(10)
    parts = [part for report in reports for part in report.readings]
    assert [len(report.readings) for report in reports] == [1, 1, 1]
    assert [len(part.reading.positions) for part in parts] == [2, 2, 1]
    assert [part.is_last for part in parts] == [False, False, True]
    assert [report.finished for report in reports] == [[], [], [7]]
    assert reports[1].num_rows == 1
    assert np.array_equal(np.concatenate([part.reading.activations for part in parts]), rows)
    assert sum((part.reading.positions for part in parts), ()) == reading.positions
    assert sum((part.reading.is_special for part in parts), ()) == reading.is_special
    assert {part.reading.token_ids for part in parts} == {reading.token_ids}
