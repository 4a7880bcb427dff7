"""`gloss explain`: from options to explanations on the terminal, or to a finished file of them.

Nothing is shown or written before everything has been checked. Where explanations come from is
`sources/text_source.py`'s, how they look `show.py`'s, the file `results.py`'s.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from gloss_client import Explanation, ItemError, TextOpened
from gloss_engine.capture.positions import Positions
from gloss_engine.text_request import ExplainRequest, TextInput
from gloss_server.command_error import CommandError
from gloss_server.commands.capture.row import Failure, TextRow
from gloss_server.commands.explain.input import Documents, open_documents
from gloss_server.commands.explain.options import ExplainOptions
from gloss_server.commands.explain.results import ExplainResults, check_suffix
from gloss_server.commands.explain.run import Asked, begin_texts, run_texts
from gloss_server.commands.explain.show import Show
from gloss_server.files.explain_row import explain_row, failed_row
from gloss_server.files.output_file import check_place, is_written
from gloss_server.files.result_row import Row
from gloss_server.files.resumable_run import begun_state, claim, resumable
from gloss_server.files.run_state import RunState
from gloss_server.sources.text_source import Came, TextFailed, TextRunner, TextSource
from gloss_server.terminal import RunProgress, Stage, interrupt_deferred

_ROWS_A_WRITE = 32
_SECONDS_A_WRITE = 0.5
"""Rows written at once, or as many as come meanwhile: about what a kill can cost."""
_INVALID = "INVALID_ARGUMENT"
_REFUSED = (_INVALID, "OUT_OF_RANGE")
"""Codes of a text that cannot be read, whoever reads it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run with an output ended.

    Attributes:
        num_new: rows this process wrote.
        num_rows, num_failed: rows the output holds, and those among them with an error.
        num_texts: texts in the input.
        seed: of the draws.
        seconds: this process explained for.
    """

    num_new: int
    num_rows: int
    num_failed: int
    num_texts: int
    seed: int
    seconds: float

    def summary(self, output: Path) -> str:
        """One line for people."""
        failed = f", {self.num_failed:,} of them failed" if self.num_failed else ""
        texts = "1 text" if self.num_texts == 1 else f"{self.num_texts:,} texts"
        held = f"{self.num_rows:,} explanations of {texts}{failed}"
        if not self.num_new:
            return f"{output} is finished already: {held}; nothing to do"
        rate = self.num_new / max(self.seconds, 1e-9)
        made = f"{self.num_new:,} new in {self.seconds:.1f} s ({rate:,.1f}/s)"
        return f"{output}: {held}; {made}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A run whose options and input agree."""

    options: ExplainOptions
    source: TextSource
    positions: Positions
    documents: Documents

    def request(self, text: TextInput, positions: Positions, seed: int) -> ExplainRequest:
        """How a text is to be explained."""
        return ExplainRequest(
            input=text,
            positions=positions,
            num_samples=self.options.samples,
            sampling=self.options.sampling(seed),
            score=self.source.scores(self.options),
            stream=True,
            priority="interactive" if self.options.file is None else "batch",
        )

    def open(self, opened: ExitStack, progress: RunProgress) -> TextRunner:
        """The runner."""
        return opened.enter_context(closing(self.source.open(self.options, progress)))

    def asked(
        self, seed: int, names: dict[int, str], missing: Callable[[int], Positions | None]
    ) -> Iterator[Asked]:
        """The texts of which something is missing.

        Args:
            seed: of the draws.
            names: of texts, by number; each is noted before it is asked for.
            missing: positions of a text that lack an explanation; None: none does.
        """
        for row in self.documents.rows():
            positions = missing(row.row)
            if positions is not None:
                names[row.row] = row.doc_id
                yield _asked(self, row, positions, seed)

    def begin(self, runner: TextRunner, seed: int, names: dict[int, str]) -> Iterator[list[Came]]:
        """Run all texts, now that requests like this run's are known to be taken.

        Raises:
            CommandError, GlossError: they are not; or the only text cannot be read.
        """
        coming = begin_texts(runner, self.asked(seed, names, lambda _: self.positions))
        if self.documents.only is None:
            return coming
        first = next(coming)
        event = first[0].event
        if isinstance(event, TextFailed) and event.error.code in _REFUSED:
            raise CommandError(event.error.message)
        return chain([first], coming)


def explain_to_file(
    options: ExplainOptions, source: TextSource, output: Path, progress: RunProgress
) -> Outcome:
    """Explain texts, or what is missing of them, into a file.

    Raises:
        CommandError: options, an input or an output that cannot be used; nothing was written.
        GlossError: a checkpoint, setting or request that cannot be used; nothing was written.
        OutputError: a write that failed; what was written before stays.
        SourceLost: what explains went away; what was written before stays.
        Interrupted: Ctrl-C while it ran; what was written before stays.
    """
    check_suffix(output)
    check_place(output)
    job = _prepare(options, source, progress)
    asked = RunState(
        input_sha256=job.documents.sha256,
        num_rows=job.documents.num_rows,
        seed=_drawn(options),
        options=source.deciding(options) | options.deciding() | {"--positions": str(job.positions)},
    )
    begun = begun_state(asked, output, seed_given=options.seed is not None)
    state, is_new = begun or asked, begun is None
    if is_new and options.seed is None:
        progress.note(f"No --seed: drew {state.seed}; a rerun of this command keeps it")
    assert state.seed is not None
    names: dict[int, str] = {}
    with ExitStack() as opened:
        coming = None
        if is_new:
            coming = job.begin(job.open(opened, progress), state.seed, names)

        def begin() -> None:
            claim(state, output, holds_rows=is_written(output))

        results = ExplainResults(
            output,
            job.documents.num_rows,
            job.positions,
            options.samples,
            begin if is_new else None,
        )
        opened.enter_context(closing(results))
        begun_with, seconds = results.num_rows, 0.0
        with resumable(lambda: _held(results, job)):
            if not results.is_complete:
                if coming is None:
                    asked_again = job.asked(state.seed, names, results.missing)
                    coming = run_texts(job.open(opened, progress), asked_again)
                seconds = _fill(coming, names, results, state, progress)
        return Outcome(
            num_new=results.num_rows - begun_with,
            num_rows=results.num_rows,
            num_failed=results.num_failed,
            num_texts=job.documents.num_rows,
            seed=state.seed,
            seconds=seconds,
        )


def explain_to_show(
    options: ExplainOptions, source: TextSource, show: Show, progress: RunProgress
) -> int:
    """Explain texts and show them as they come; how many explanations and texts failed.

    Raises:
        CommandError, GlossError: as `explain_to_file`; nothing was shown.
        SourceLost: what explains went away.
        KeyboardInterrupt: Ctrl-C; what there was has been shown.
    """
    job = _prepare(options, source, progress)
    seed, num_failed = _drawn(options), 0
    names: dict[int, str] = {}
    with ExitStack() as opened:
        coming = job.begin(job.open(opened, progress), seed, names)
        if options.seed is None:
            progress.note(f"No --seed: drew {seed}")
        show.begin(options.samples, seed, None if job.documents.only else names)
        opened.callback(show.end)
        for came in coming:
            for one in came:
                failed = isinstance(one.event, TextFailed)
                if isinstance(one.event, Explanation):
                    failed = one.event.error is not None
                num_failed += failed
            show.take(came)
    return num_failed


def _prepare(options: ExplainOptions, source: TextSource, progress: RunProgress) -> _Job:
    """Check all that needs no model."""
    options.check()
    positions = Positions.parse(options.positions)
    source.check(options)
    documents = open_documents(options.text, options.file, options.chat, progress)
    return _Job(options=options, source=source, positions=positions, documents=documents)


def _drawn(options: ExplainOptions) -> int:
    return secrets.randbits(32) if options.seed is None else options.seed


def _asked(job: _Job, row: TextRow | Failure, positions: Positions, seed: int) -> Asked:
    if isinstance(row, Failure):
        error = ItemError(code=_INVALID, reason=row.reason, message=row.message)
        return Asked(row=row.row, request=error)
    return Asked(row=row.row, request=job.request(row.text, positions, seed))


@dataclass(kw_only=True)
class _Writer:
    """Rows on their way into the output."""

    results: ExplainResults
    stage: Stage
    num_texts: int
    rows: list[Row] = field(default_factory=list)
    num_made: int = 0
    written_at: float = field(default_factory=time.monotonic)

    def add(self, row: Row) -> None:
        """Take a row; it is written with others."""
        self.rows.append(row)
        self.num_made += 1

    def write(self, at_once: bool) -> None:
        """Write what has come, if it is much or long ago."""
        now = time.monotonic()
        is_due = len(self.rows) >= _ROWS_A_WRITE or now - self.written_at >= _SECONDS_A_WRITE
        if not (at_once or is_due):
            return
        ended = self.results.num_ended
        with interrupt_deferred():
            self.results.append(self.rows)
        self.rows, self.written_at = [], now
        rate = self.num_made / max(self.stage.seconds, 1e-9)
        self.stage.advance(
            self.results.num_ended - ended,
            f"{self.results.num_ended:,}/{self.num_texts:,} texts, {rate:,.1f} explanations/s",
        )


def _fill(
    coming: Iterator[list[Came]],
    names: dict[int, str],
    results: ExplainResults,
    state: RunState,
    progress: RunProgress,
) -> float:
    """Write what comes of texts, by their names; the seconds it took."""
    assert state.seed is not None
    seed, num_texts = state.seed, state.num_rows
    with progress.stage("Explaining", num_texts) as stage:
        stage.advance(results.num_ended)
        writer = _Writer(results=results, stage=stage, num_texts=num_texts)
        for came in coming:
            for one in came:
                event, row = one.event, one.row
                if isinstance(event, TextOpened):
                    with interrupt_deferred():
                        results.open(row, len(event.token_ids))
                elif isinstance(event, Explanation):
                    writer.add(explain_row(event, row, names[row], seed))
                elif isinstance(event, TextFailed):
                    writer.add(failed_row(event.error, row, names.pop(row), seed))
            writer.write(at_once=False)
        writer.write(at_once=True)
        return stage.seconds


def _held(results: ExplainResults, job: _Job) -> str:
    texts = f"{results.num_ended:,} of {job.documents.num_rows:,} texts"
    return f"{results.num_rows:,} explanations written, all of {texts}"
