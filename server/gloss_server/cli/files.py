"""Commands over files, which go on where they were: `gloss verbalize`, `gloss capture`.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

from dataclasses import fields

import typer

from gloss_server.cli import option_types as kinds
from gloss_server.commands.capture import options as captured
from gloss_server.terminal import RunProgress, say

SOME_ROWS_FAILED = 3


def verbalize(
    file: kinds.ActivationFile,
    output: kinds.OutputFile,
    address: kinds.ServiceAddress = None,
    token_file: kinds.TokenFile = None,
    tls: kinds.Tls = None,
    tls_ca: kinds.TlsCa = None,
    tls_cert: kinds.TlsCert = None,
    tls_key: kinds.TlsKey = None,
    tls_server_name: kinds.TlsServerName = None,
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
    given = locals()
    from gloss_server.commands.verbalize.command import verbalize as run_verbalize
    from gloss_server.sources.explainer_choice import HERE, THERE, choose_explainer, named
    from gloss_server.sources.verbalize_options import VerbalizeOptions

    explainer = choose_explainer(local, here=named(given, HERE), there=named(given, THERE))
    names = [field.name for field in fields(VerbalizeOptions)]
    options = VerbalizeOptions(**named(given, names))
    outcome = run_verbalize(options, explainer, RunProgress())
    say(outcome.summary(output))
    raise typer.Exit(SOME_ROWS_FAILED if outcome.num_failed else 0)


def capture(
    input_file: captured.Input,
    output: captured.Output,
    target: captured.Target = None,
    layer: captured.Layer = None,
    positions: captured.Positions = "all",
    device: kinds.Device = None,
    dtype: kinds.Dtype = None,
) -> None:
    """Capture a model's activations from a file of texts. The same command continues a run."""
    from gloss_server.commands.capture.command import capture as run_capture

    options = captured.CaptureOptions(
        input=input_file,
        output=output,
        target=target,
        layer=layer,
        positions=positions,
        device=device or "auto",
        dtype=dtype or "auto",
    )
    outcome = run_capture(options, RunProgress())
    for line in outcome.lines(output):
        say(line)
    raise typer.Exit(SOME_ROWS_FAILED if outcome.num_failures else 0)
