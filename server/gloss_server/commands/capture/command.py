"""`gloss capture`: from options to a finished file of activations.

Opens the input, finds out whether the output is new, begun or finished, loads the target and writes
what is missing. The loop is `run.py`'s, the output `results.py`'s.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gloss_engine.capture.positions import Positions
from gloss_engine.checkpoint import fingerprint, read_spec
from gloss_engine.config import EngineConfig
from gloss_engine.sidecar import read_sidecar
from gloss_engine.target.target import Target, load_target
from gloss_server.command_error import CommandError
from gloss_server.commands.capture.input import TextFile, open_texts
from gloss_server.commands.capture.options import CaptureOptions
from gloss_server.commands.capture.results import CaptureResults, Span, failures_path
from gloss_server.commands.capture.run import CaptureRun, parts
from gloss_server.embedded import embedded_pair
from gloss_server.files.output_file import check_place
from gloss_server.files.resumable_run import begun_state, claim, hash_input, resumable
from gloss_server.files.run_state import RunState
from gloss_server.terminal import RunProgress, interrupt_deferred


@dataclass(frozen=True, kw_only=True)
class CaptureOutcome:
    """How a run ended.

    Attributes:
        span: what the output holds, all rows of the input, with the first failures.
        num_new, num_new_tokens: documents and tokens that this process has read.
        seconds: it read for.
    """

    span: Span
    num_new: int
    num_new_tokens: int
    seconds: float

    @property
    def num_failures(self) -> int:
        """Documents that could not be read, and activations left out."""
        return self.span.num_failed + self.span.num_left_out

    def lines(self, output: Path) -> list[str]:
        """For people: one line, and where something failed, what and why."""
        return [self._summary(output), *self._failure_lines(output)]

    def _summary(self, output: Path) -> str:
        span = self.span
        failed = f", {span.num_failed:,} of them failed" if span.num_failed else ""
        left_out = f", {span.num_left_out:,} activations left out" if span.num_left_out else ""
        documents = f"{span.stop:,} documents{failed}{left_out}"
        held = f"{span.num_activations:,} activations of {documents}"
        if not self.num_new:
            return f"{output} is finished already: {held}; nothing to do"
        seconds = max(self.seconds, 1e-9)
        return (
            f"{output}: {held}; {self.num_new:,} documents new in {seconds:.1f} s "
            f"({self.num_new / seconds:,.1f} documents/s, "
            f"{self.num_new_tokens / seconds:,.0f} tokens/s)"
        )

    def _failure_lines(self, output: Path) -> list[str]:
        if not self.num_failures:
            return []
        shown = [str(failure) for failure in self.span.failures]
        return [*shown, f"{failures_path(output)} names all {self.num_failures:,}"]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A run whose options, input and earlier state agree."""

    options: CaptureOptions
    directory: Path
    layer_index: int
    positions: Positions
    config: EngineConfig
    source: TextFile
    state: RunState
    is_new: bool


def capture(options: CaptureOptions, progress: RunProgress) -> CaptureOutcome:
    """Capture the activations of a file of texts, or what is missing of them.

    Raises:
        CommandError: options, an input or an output that cannot be used.
        GlossError: a checkpoint, setting or selection of positions that cannot be used.
        OutputError: a write that failed; what was written before stays.
        Interrupted: Ctrl-C while it ran; what was written before stays.
    """
    job = _prepare(options, progress)
    target = _load(job, progress) if job.is_new else None
    with closing(CaptureResults(options.output, job.source.num_rows)) as results:
        if job.is_new:
            claim(job.state, options.output, holds_rows=results.span.stop > 0)
        seconds, begun = 0.0, results.span
        with resumable(lambda: _held(results, job)):
            if not results.is_complete:
                seconds = _run(job, target or _load(job, progress), results, progress)
            with progress.stage(f"Writing {options.output.name}"):
                results.finish(job.layer_index)
        return CaptureOutcome(
            span=results.span,
            num_new=results.span.stop - begun.stop,
            num_new_tokens=results.span.num_tokens - begun.num_tokens,
            seconds=seconds,
        )


def _prepare(options: CaptureOptions, progress: RunProgress) -> _Job:
    """Check all that needs no weights, and find out what the output is."""
    positions = Positions.parse(options.positions)
    config = EngineConfig(device=options.device, dtype=options.dtype)
    device, dtype = config.resolve_device(), config.resolve_dtype()
    directory, layer_index = _target(options)
    read_spec(directory)
    _check_output(options.output)
    with progress.stage(f"Reading {options.input.name}"):
        source = open_texts(options.input)
    asked = RunState(
        input_sha256=hash_input(options.input, progress),
        num_rows=source.num_rows,
        options={
            "--target": fingerprint(directory),
            "--layer": layer_index,
            "--positions": str(positions),
            "--device": device.type,
            "--dtype": str(dtype).removeprefix("torch."),
        },
    )
    begun = begun_state(asked, options.output)
    return _Job(
        options=options,
        directory=directory,
        layer_index=layer_index,
        positions=positions,
        config=config,
        source=source,
        state=begun or asked,
        is_new=begun is None,
    )


def _check_output(output: Path) -> None:
    if output.suffix != ".parquet":
        raise CommandError(f"--output {output}: got suffix {output.suffix!r}, expected .parquet")
    check_place(output)


def _target(options: CaptureOptions) -> tuple[Path, int]:
    """The model to read, and at which block.

    Raises:
        CommandError: a model without a layer: which one an AV explains is not for us to guess.
    """
    if options.target is not None:
        if options.layer is None:
            raise CommandError(
                "--target without --layer: say which block K's output to capture, counted from 0; "
                "the AV that is to explain it states its own in nla_meta.yaml"
            )
        return options.target, options.layer
    pair = embedded_pair()
    layer = read_sidecar(pair.av).layer_index if options.layer is None else options.layer
    assert layer is not None, "the embedded AV states its layer"
    return pair.target, layer


def _load(job: _Job, progress: RunProgress) -> Target:
    with progress.stage("Loading the target"):
        return load_target(job.directory, job.config, layer_index=job.layer_index, generates=False)


def _run(job: _Job, target: Target, results: CaptureResults, progress: RunProgress) -> float:
    """Write what is missing; the seconds it took."""
    run = CaptureRun(target, job.positions, job.config.max_read_tokens)
    num_rows, begun = job.source.num_rows, results.span.stop
    num_tokens = 0
    with progress.stage("Capturing", num_rows) as stage:
        stage.advance(begun)

        def show(span: Span) -> None:
            nonlocal num_tokens
            num_tokens += span.num_tokens
            seconds, count = max(stage.seconds, 1e-9), span.stop - begun
            stage.advance(
                span.stop - span.start,
                f"{span.stop:,}/{num_rows:,} documents, {count / seconds:,.1f} documents/s, "
                f"{num_tokens / seconds:,.0f} tokens/s",
            )

        for part in parts(run.batches(job.source.rows(begun), show)):
            with interrupt_deferred():
                results.append(part.tables, part.span)
        return stage.seconds


def _held(results: CaptureResults, job: _Job) -> str:
    return f"{results.span.stop:,} of {job.source.num_rows:,} documents captured"
