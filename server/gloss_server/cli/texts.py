"""Commands whose input is text: `gloss explain`, `gloss watch`.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from gloss_server.cli import option_types as kinds
from gloss_server.commands.explain import options as explained
from gloss_server.commands.watch import options as watched
from gloss_server.sources.explanation_options import ExplanationOptions
from gloss_server.terminal import RunProgress, say

if TYPE_CHECKING:
    from gloss_server.commands.watch.command import WatchShow

SOME_FAILED = 3


def explain(
    text: explained.TextArgument = None,
    file: explained.File = None,
    chat: explained.Chat = False,
    positions: explained.Positions = "all",
    output: explained.Output = None,
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
    target: kinds.Target = None,
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
) -> None:
    """Explain what a model makes of a text, token by token, by a server or here. With --output the
    same command continues a run."""
    given = locals()
    from gloss_server.commands.explain.command import explain_to_file, explain_to_show
    from gloss_server.commands.explain.show import LineShow, TableShow
    from gloss_server.sources.explainer_choice import HERE, THERE, choose_texts, named

    source = choose_texts(local, here=named(given, ("target", *HERE)), there=named(given, THERE))
    options = explained.ExplainOptions(**named(given, _names(explained.ExplainOptions)))
    if output is None:
        console = Console()
        show = TableShow(console) if console.is_terminal else LineShow()
        num_failed = explain_to_show(options, source, show, RunProgress())
    else:
        outcome = explain_to_file(options, source, output, RunProgress())
        say(outcome.summary(output))
        num_failed = outcome.num_failed
    raise typer.Exit(SOME_FAILED if num_failed else 0)


def watch(
    prompt: watched.Prompt,
    chat: watched.Chat = False,
    positions: watched.Positions = None,
    every: watched.Every = 1,
    max_pending: watched.MaxPending = None,
    tokens_per_second: watched.TokensPerSecond = watched.DEFAULT_PACE,
    target_temperature: watched.TargetTemperature = 0.7,
    target_max_new_tokens: watched.TargetMaxNewTokens = None,
    target_seed: watched.TargetSeed = None,
    as_json: watched.AsJson = False,
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
    target: kinds.Target = None,
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
) -> None:
    """Let a model go on from a prompt, by a server or here, and read what it thinks meanwhile."""
    given = locals()
    from gloss_server.commands.watch.command import watch as run_watch
    from gloss_server.commands.watch.lines import WatchJson, WatchLines
    from gloss_server.commands.watch.page import WatchPage
    from gloss_server.sources.explainer_choice import HERE, THERE, choose_texts, named

    source = choose_texts(local, here=named(given, ("target", *HERE)), there=named(given, THERE))
    options = watched.WatchOptions(**named(given, _names(watched.WatchOptions)))
    console = Console()
    show: WatchShow = WatchPage(console) if console.is_terminal else WatchLines()
    if as_json:
        show = WatchJson()
    num_failed = run_watch(options, source, show, RunProgress())
    raise typer.Exit(SOME_FAILED if num_failed else 0)


def _names(options: type[ExplanationOptions]) -> list[str]:
    return [field.name for field in fields(options)]
