"""The `gloss` command line: options, exit statuses, and which library call each command makes.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from gloss_engine.memory_plan import MEMORY_FRACTION
from gloss_server import __version__
from gloss_server import option_types as kinds
from gloss_server import plan_options as planned
from gloss_server.command_error import CommandError
from gloss_server.explainer_choice import DEFAULT_ADDRESS
from gloss_server.terminal import RunProgress, say

NOT_SERVING, DOES_NOT_FIT, SOME_ROWS_FAILED, INTERRUPTED = 1, 1, 3, 130
# Of the command line's own parser; typer does not export the class itself.
_UsageError = typer.BadParameter.__mro__[1]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    # Read when grpc is first imported. By default its core tells stderr of every connection that a
    # server ends, between our one line for an error and the server's JSON lines.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        status = app(arguments, prog_name="gloss", standalone_mode=False) or 0
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        failure = _exit_status(error)
        if failure is None:
            raise
        say(f"error: {_message(error)}")
        return failure
    if status == INTERRUPTED:
        say("error: interrupted")
    return status


def _exit_status(error: Exception) -> int | None:
    """The status an error ends the command with; None for a defect of ours."""
    if isinstance(error, CommandError):
        return error.exit_status
    if isinstance(error, _UsageError):
        return 2
    # What has not been imported has not been raised.
    engine, torch = sys.modules.get("gloss_engine.errors"), sys.modules.get("torch")
    if engine is not None and isinstance(error, engine.GlossError):
        return 2
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return 1
    return None


def _message(error: Exception) -> str:
    format_message = getattr(error, "format_message", None)
    return str(error) if format_message is None else f"{format_message()} (gloss --help)"


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"gloss {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def gloss(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Explain a language model's activations in words, with the evidence for them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def verbalize(
    file: kinds.ActivationFile,
    output: kinds.OutputFile,
    address: kinds.ServiceAddress = None,
    token_file: kinds.TokenFile = None,
    tls_ca: kinds.TlsCa = None,
    local: kinds.Local = False,
    av: kinds.Av = None,
    ar: kinds.Ar = None,
    device: kinds.Device = None,
    dtype: kinds.Dtype = None,
    quantization: kinds.Quantization = None,
    batch_invariant: kinds.BatchInvariant = None,
    injection_mode: kinds.InjectionMode = None,
    fve_baseline: kinds.FveBaseline = None,
    samples: kinds.Samples = 1,
    temperature: kinds.Temperature = 1.0,
    top_p: kinds.TopP = 1.0,
    top_k: kinds.TopK = 0,
    min_p: kinds.MinP = 0.0,
    repetition_penalty: kinds.RepetitionPenalty = 1.0,
    max_new_tokens: kinds.MaxNewTokens = 200,
    seed: kinds.Seed = None,
    score: kinds.Score = None,
    layer: kinds.Layer = None,
    allow_layer_mismatch: kinds.AllowLayerMismatch = False,
) -> None:
    """Explain a file of activations, by a server or here. The same command continues a run."""
    from gloss_server.explainer_choice import choose_explainer
    from gloss_server.verbalize_command import verbalize as run_verbalize
    from gloss_server.verbalize_options import VerbalizeOptions

    explainer = choose_explainer(
        local,
        here={
            "av": av,
            "ar": ar,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "batch_invariant": batch_invariant,
            "injection_mode": injection_mode,
            "fve_baseline": fve_baseline,
        },
        there={"address": address, "token_file": token_file, "tls_ca": tls_ca},
    )
    options = VerbalizeOptions(
        file=file,
        output=output,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
        seed=seed,
        score=score,
        layer=layer,
        allow_layer_mismatch=allow_layer_mismatch,
    )
    outcome = run_verbalize(options, explainer, RunProgress())
    say(outcome.summary(output))
    raise typer.Exit(SOME_ROWS_FAILED if outcome.num_failed else 0)


@app.command()
def serve(
    config: kinds.ConfigFile = None,
    av: kinds.Av = None,
    ar: kinds.Ar = None,
    target: kinds.Target = None,
    address: kinds.Address = None,
    metrics_address: kinds.MetricsAddress = None,
    admin_address: kinds.AdminAddress = None,
    device: kinds.Device = None,
    dtype: kinds.Dtype = None,
    quantization: kinds.Quantization = None,
    injection_mode: kinds.InjectionMode = None,
    fve_baseline: kinds.FveBaseline = None,
    model_name: kinds.ModelName = None,
    memory_fraction: kinds.MemoryFraction = None,
    max_step_tokens: kinds.MaxStepTokens = None,
    batch_invariant: kinds.BatchInvariant = None,
    graphs: kinds.Graphs = None,
) -> None:
    """Serve explanations over gRPC until SIGTERM or Ctrl-C. A flag goes before the environment
    (GLOSS_ADDRESS), the environment before the file."""
    from gloss_server.settings_sources import read_settings

    settings = read_settings(
        {
            "av": av,
            "ar": ar,
            "target": target,
            "address": address,
            "metrics_address": metrics_address,
            "admin_address": admin_address,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "injection_mode": injection_mode,
            "fve_baseline": fve_baseline,
            "model_name": model_name,
            "memory_fraction": memory_fraction,
            "max_step_tokens": max_step_tokens,
            "batch_invariant": batch_invariant,
            "graphs": graphs,
        },
        config,
    )
    from gloss_server.front.server import serve as run_server

    raise typer.Exit(run_server(settings))


@app.command()
def health(address: kinds.ServerAddress = DEFAULT_ADDRESS, watch: kinds.Watch = False) -> None:
    """Ask a server whether it serves: SERVING (status 0) or NOT_SERVING (status 1)."""
    from gloss_server.health_command import SERVING, check_health, watch_health

    if watch:
        with suppress(KeyboardInterrupt):
            watch_health(address, typer.echo, say)
        return
    status = check_health(address)
    typer.echo(status)
    if status != SERVING:
        raise typer.Exit(NOT_SERVING)


@app.command()
def top(
    address: kinds.ServerAddress = DEFAULT_ADDRESS,
    once: kinds.Once = False,
    as_json: kinds.TopAsJson = False,
) -> None:
    """Watch a server's queue, batch, rates and latencies, until q or Ctrl-C."""
    from gloss_server.top import run_top

    run_top(address, Console(), once, as_json)


@app.command()
def demo(
    story: kinds.Story = 1,
    samples: kinds.Samples = 1,
    seed: kinds.DemoSeed = 0,
    show_all: kinds.ShowAll = False,
) -> None:
    """Explain the activations of a shipped story with the embedded pair, end to end."""
    from gloss_server.demo import run_demo
    from gloss_server.demo_page import print_demo
    from gloss_server.embedded import embedded_pair

    pair = embedded_pair()
    with RunProgress().stage("Explaining a story"):
        result = run_demo(pair, story, samples, seed)
    print_demo(result, Console(), show_all)


@app.command()
def doctor(directory: kinds.CheckpointDirectory, as_json: kinds.AsJson = False) -> None:
    """Examine a checkpoint: will it load, and as what it was trained to be?"""
    from gloss_server.doctor import examine, exit_code
    from gloss_server.doctor_table import checks_json, print_checks

    with RunProgress().stage(f"Examining {directory}"):
        checks = examine(directory)
    if as_json:
        typer.echo(checks_json(checks))
    else:
        print_checks(checks, Console())
    raise typer.Exit(exit_code(checks))


@app.command()
def plan(
    av: planned.Av = None,
    ar: planned.Ar = None,
    target: planned.Target = None,
    pair: planned.Pair = None,
    memory: planned.Memory = None,
    memory_fraction: planned.MemoryFraction = MEMORY_FRACTION,
    dtype: planned.Dtype = "auto",
    quantization: planned.Quantization = "none",
    max_new_tokens: planned.MaxNewTokens = 200,
    batch: planned.Batch = None,
    as_json: planned.AsJson = False,
) -> None:
    """What fits into a GPU, and how fast it can be at best. Weights need not be there; status 1
    where it does not fit."""
    from gloss_server.plan_command import make_plan
    from gloss_server.plan_page import plan_json, print_plan

    options = planned.PlanOptions(
        av=av,
        ar=ar,
        target=target,
        pair=pair,
        memory=memory,
        memory_fraction=memory_fraction,
        dtype=dtype,
        quantization=quantization,
        max_new_tokens=max_new_tokens,
        batch=batch,
    )
    with RunProgress().stage("Reading configurations"):
        report = make_plan(options)
    if as_json:
        typer.echo(plan_json(report))
    else:
        print_plan(report, Console())
    raise typer.Exit(0 if report.plan.fits else DOES_NOT_FIT)
