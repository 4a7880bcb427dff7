"""Commands whose input is text: `gloss explain`, `gloss watch`.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

import typer
from rich.console import Console

from gloss_server import explain_options as explained
from gloss_server import option_types as kinds
from gloss_server.terminal import RunProgress, say

SOME_FAILED = 3


def explain(
    text: explained.TextArgument = None,
    file: explained.File = None,
    chat: explained.Chat = False,
    positions: explained.Positions = "all",
    output: explained.Output = None,
    address: kinds.ServiceAddress = None,
    token_file: kinds.TokenFile = None,
    tls_ca: kinds.TlsCa = None,
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
    from gloss_server.explain_command import explain_to_file, explain_to_show
    from gloss_server.explain_show import LineShow, TableShow
    from gloss_server.explainer_choice import choose_texts

    source = choose_texts(
        local,
        here={
            "av": av,
            "ar": ar,
            "target": target,
            "device": device,
            "dtype": dtype,
            "quantization": quantization,
            "batch_invariant": batch_invariant,
            "injection_mode": injection_mode,
            "fve_baseline": fve_baseline,
        },
        there={"address": address, "token_file": token_file, "tls_ca": tls_ca},
    )
    options = explained.ExplainOptions(
        text=text,
        file=file,
        chat=chat,
        positions=positions,
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
    )
    if output is None:
        console = Console()
        show = TableShow(console) if console.is_terminal else LineShow()
        num_failed = explain_to_show(options, source, show, RunProgress())
    else:
        outcome = explain_to_file(options, source, output, RunProgress())
        say(outcome.summary(output))
        num_failed = outcome.num_failed
    raise typer.Exit(SOME_FAILED if num_failed else 0)
