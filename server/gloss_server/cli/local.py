"""Commands that need neither server nor input: `gloss demo`, `gloss doctor`, `gloss plan`.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

import typer
from rich.console import Console

from gloss_engine.memory_plan import MEMORY_FRACTION
from gloss_server.cli import option_types as kinds
from gloss_server.commands.plan import options as planned
from gloss_server.commands.ui_options import DEFAULT_LISTEN
from gloss_server.terminal import RunProgress, print_lines

DOES_NOT_FIT = 1


def demo(
    text: kinds.DemoText = None,
    story: kinds.Story = None,
    stories: kinds.Stories = False,
    samples: kinds.Samples = 1,
    seed: kinds.DemoSeed = 0,
    show_all: kinds.ShowAll = False,
    ui: kinds.DemoUi = False,
    listen: kinds.DemoListen = None,
) -> None:
    """Explain a text with the embedded models, end to end: a shipped story, or your own in the
    words of their tiny world. With --ui on a page, until SIGTERM or Ctrl-C."""
    if ui or listen is not None:
        from gloss_server.commands.demo.ui import check_flags, run_demo_ui

        others = {"TEXT": text, "--story": story, "--stories": stories, "--all": show_all}
        check_flags(ui, others | {"--samples": samples != 1, "--seed": seed != 0})
        run_demo_ui(listen or DEFAULT_LISTEN)
        return
    from gloss_server.commands.demo.page import print_demo, print_stories
    from gloss_server.commands.demo.run import run_demo
    from gloss_server.commands.demo.stories import read_stories
    from gloss_server.embedded import embedded_pair

    pair = embedded_pair()
    if stories:
        print_stories(read_stories(pair.activations), Console())
        return
    with RunProgress().stage("Reading and explaining"):
        result = run_demo(pair, text, story, samples, seed)
    print_demo(result, Console(), show_all)


def doctor(directory: kinds.CheckpointDirectory, as_json: kinds.AsJson = False) -> None:
    """Examine a checkpoint: will it load, and as what it was trained to be?"""
    from gloss_server.commands.doctor.examination import examine, exit_code
    from gloss_server.commands.doctor.table import checks_json, print_checks

    with RunProgress().stage(f"Examining {directory}"):
        checks = examine(directory)
    if as_json:
        print_lines([checks_json(checks)])
    else:
        print_checks(checks, Console())
    raise typer.Exit(exit_code(checks))


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
    from gloss_server.commands.plan.command import make_plan
    from gloss_server.commands.plan.page import plan_json, print_plan

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
        print_lines([plan_json(report)])
    else:
        print_plan(report, Console())
    raise typer.Exit(0 if report.plan.fits else DOES_NOT_FIT)
