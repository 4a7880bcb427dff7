"""`gloss verbalize`: from options to a finished output, wherever explanations come from.

Opens the input, finds out whether the output is new, begun or finished, opens the explainer and
writes what is missing. Nothing is written before everything has been checked. The loop itself is
`run.py`'s, where explanations come from `sources/explainer.py`'s.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gloss_server.command_error import CommandError
from gloss_server.commands.verbalize.run import finished_chunks
from gloss_server.files.activation_file import ActivationFile, open_activations
from gloss_server.files.output_file import check_place
from gloss_server.files.result_file import Results, open_results, output_format
from gloss_server.files.resumable_run import begun_state, claim, hash_input, resumable
from gloss_server.files.run_state import RunState
from gloss_server.sources.explainer import Explainer, RequestTemplate, Runner
from gloss_server.sources.verbalize_options import VerbalizeOptions
from gloss_server.terminal import RunProgress, interrupt_deferred

CHUNK_ROWS = 32
"""Rows written at once: with the samples, what a kill can cost."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        num_new: explanations this process made.
        num_done, num_failed: explanations the output holds, and those among them with an error.
        num_scored: of those it holds, those with an FVE; mean_fve: of these, None: there is none.
        num_rows: activations in the input.
        seed: of the draws.
        seconds: this process explained for.
    """

    num_new: int
    num_done: int
    num_failed: int
    num_rows: int
    seed: int
    seconds: float
    num_scored: int = 0
    mean_fve: float | None = None

    def summary(self, output: Path) -> str:
        """One line for people."""
        failed = f", {self.num_failed:,} of them failed" if self.num_failed else ""
        held = f"{self.num_done:,} explanations of {self.num_rows:,} activations{failed}"
        if self.mean_fve is not None:
            held += f", mean FVE {self.mean_fve:.3f} of {self.num_scored:,} scored"
        if not self.num_new:
            return f"{output} is finished already: {held}; nothing to do"
        rate = self.num_new / max(self.seconds, 1e-9)
        made = f"{self.num_new:,} new in {self.seconds:.1f} s ({rate:,.1f}/s)"
        return f"{output}: {held}; {made}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A run whose options, input and earlier state agree."""

    options: VerbalizeOptions
    explainer: Explainer
    source: ActivationFile
    state: RunState
    is_new: bool
    template: RequestTemplate


def verbalize(
    options: VerbalizeOptions,
    explainer: Explainer,
    progress: RunProgress,
    chunk_rows: int = CHUNK_ROWS,
) -> Outcome:
    """Explain a file of activations, or what is missing of it.

    Raises:
        CommandError: options, an input or an output that cannot be used; nothing was written.
        GlossError: a checkpoint, setting or request that cannot be used; nothing was written.
        OutputError: a write that failed; what was written before stays.
        SourceLost: what explains went away; what was written before stays.
        Interrupted: Ctrl-C while it ran; what was written before stays.
    """
    job = _prepare(options, explainer, progress)
    with ExitStack() as opened:
        runner = _open(job, opened, progress) if job.is_new else None
        results = opened.enter_context(
            closing(open_results(options.output, job.source.num_rows, options.samples))
        )
        if job.is_new:
            claim(job.state, options.output, holds_rows=results.done.count > 0)
        seconds, begun_with = 0.0, results.done.count
        with resumable(lambda: _held(results)):
            if not results.done.is_complete:
                runner = runner or _open(job, opened, progress)
                seconds = _run(job, runner, results, chunk_rows, progress)
            with interrupt_deferred():
                results.finish()
        return Outcome(
            num_new=results.done.count - begun_with,
            num_done=results.done.count,
            num_failed=results.done.num_failed,
            num_rows=job.source.num_rows,
            seed=_seed(job.state),
            seconds=seconds,
            num_scored=results.done.num_scored,
            mean_fve=results.done.mean_fve,
        )


def _prepare(options: VerbalizeOptions, explainer: Explainer, progress: RunProgress) -> _Job:
    """Check all that needs no model, and find out what the output is."""
    options.check()
    explainer.check(options)
    output_format(options.output)
    check_place(options.output)
    with progress.stage(f"Reading {options.file.name}"):
        source = open_activations(options.file)
    asked = RunState(
        input_sha256=hash_input(options.file, progress),
        num_rows=source.num_rows,
        seed=secrets.randbits(32) if options.seed is None else options.seed,
        options=explainer.deciding(options) | options.deciding(),
    )
    begun = begun_state(asked, options.output, seed_given=options.seed is not None)
    if begun is None and options.seed is None:
        progress.note(f"No --seed: drew {asked.seed}; a rerun of this command keeps it")
    state = begun or asked
    return _Job(
        options=options,
        explainer=explainer,
        source=source,
        state=state,
        is_new=begun is None,
        template=RequestTemplate(
            num_samples=options.samples,
            sampling=options.sampling(_seed(state)),
            layer_index=source.layer_index if options.layer is None else options.layer,
            allow_layer_mismatch=options.allow_layer_mismatch,
            score=explainer.scores(options),
        ),
    )


def _seed(state: RunState) -> int:
    """Of the draws: this command's runs always have one."""
    assert state.seed is not None
    return state.seed


def _open(job: _Job, opened: ExitStack, progress: RunProgress) -> Runner:
    """The runner, having agreed to requests like this run's."""
    runner = job.explainer.open(job.options, job.template, progress)
    opened.enter_context(closing(runner))
    if job.source.width != runner.d_model:
        raise CommandError(
            f"{job.options.file}: got activations of width {job.source.width}, expected "
            f"{runner.d_model}, as wide as {runner.explains}"
        )
    runner.check()
    return runner


def _run(
    job: _Job, runner: Runner, results: Results, chunk_rows: int, progress: RunProgress
) -> float:
    """Write what is missing; the seconds it took."""
    done, samples = results.done, job.options.samples
    needed = np.logical_not(done.marks.all(axis=1))
    chunks = job.source.chunks(needed, chunk_rows)
    num_made = 0
    with progress.stage("Explaining", done.marks.size) as stage:
        stage.advance(done.marks.size - int(needed.sum()) * samples)

        def show(count: int) -> None:
            nonlocal num_made
            num_made += count
            rows = done.num_rows - int(needed.sum()) + num_made // samples
            rate = num_made / max(stage.seconds, 1e-9)
            stage.advance(count, f"{rows:,}/{done.num_rows:,} rows, {rate:,.1f} explanations/s")

        for rows in finished_chunks(runner, chunks, job.template, show):
            with interrupt_deferred():
                results.append(rows)
        return stage.seconds


def _held(results: Results) -> str:
    done = results.done
    return f"{done.count:,} of {done.marks.size:,} explanations written"
