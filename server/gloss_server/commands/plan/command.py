"""`gloss plan`: from directories or a released pair's name to what fits and how fast at best.

Reads configurations, sidecars and, where they are, tokenizers; weights need not exist. The
arithmetic is the engine's (`memory_plan`, `floor`); how it looks is in `page.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gloss_engine import CheckpointError, EngineConfig
from gloss_engine.ar.reconstructor import check_ar
from gloss_engine.ar.template import ReconstructorTemplate
from gloss_engine.av.prompt import build_prompt
from gloss_engine.av.verbalizer import check_av
from gloss_engine.checkpoint import load_tokenizer, read_spec
from gloss_engine.config import DTYPES
from gloss_engine.floor import H200, QUANTIZATIONS
from gloss_engine.loading import check_pair
from gloss_engine.memory_plan import (
    MemoryPlan,
    Remedy,
    Setup,
    floor_of,
    most_sequences,
    plan_memory,
    remedies,
)
from gloss_engine.memory_sizes import Precision
from gloss_engine.models.linear_fp8 import check_fp8_widths
from gloss_engine.models.spec import ModelSpec
from gloss_engine.released import RELEASED_PAIRS, ReleasedPair, pair_called
from gloss_engine.released_spec import released_spec
from gloss_engine.sidecar import Sidecar, read_sidecar, require_plain_model
from gloss_server.command_error import CommandError
from gloss_server.commands.plan.options import PlanOptions

GB = 10**9
USUAL_BATCH = 256
"""Where throughput saturates on an H200, and the engine's own limit unless it is set."""
_H200_GB = 141


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The floor of one way to run: bounds, not measurements.

    Attributes:
        explanations_per_second: at the plan's number of sequences.
        single_ms: latency of one explanation alone.
    """

    explanations_per_second: float
    single_ms: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `gloss plan` says.

    Attributes:
        title: what is planned.
        device: whose memory it is.
        dtype: of weights, keys and values.
        plan: the memory.
        remedies: what would make it fit, when it does not.
        rates: without scoring; None where the plan does not fit or no ceiling is known.
        scored_rates: with every explanation scored; None without an AR too.
        notes: what was assumed.
    """

    title: str
    device: str
    dtype: str
    plan: MemoryPlan
    remedies: tuple[Remedy, ...]
    rates: Rates | None
    scored_rates: Rates | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Models:
    """What was found of the models, and what had to be assumed of them."""

    title: str
    setup: Setup
    notes: tuple[str, ...]


def make_plan(options: PlanOptions) -> Report:
    """Answer `gloss plan`.

    Raises:
        CommandError: options that make no plan.
        CheckpointError: directories that do not hold together, no such pair, or widths that fp8
            does not take.
        ConfigError: a dtype that the AV cannot run in.
    """
    dtype = _check(options)
    memory_bytes, device = _memory(options.memory)
    pair = None if options.pair is None else pair_called(options.pair)
    setup = Setup(
        av=read_spec(_av(options)) if pair is None else released_spec(pair),
        max_new_tokens=options.max_new_tokens,
        typical_tokens=min(Setup.typical_tokens, options.max_new_tokens),
        precision=Precision(dtype_bytes=DTYPES[dtype].itemsize, quantization=options.quantization),
        memory_bytes=memory_bytes,
        memory_fraction=options.memory_fraction,
    )
    models = _directories(options, setup, dtype) if pair is None else _released(pair, setup)
    setup = models.setup
    _check_length(setup)
    if options.quantization == "fp8":
        for spec in (setup.av, setup.ar):
            if spec is not None:
                check_fp8_widths(spec)
    num_sequences = options.batch or max(1, min(USUAL_BATCH, most_sequences(setup)))
    plan = plan_memory(setup, num_sequences)
    return Report(
        title=models.title,
        device=device,
        dtype=dtype,
        plan=plan,
        remedies=() if plan.fits else tuple(remedies(plan)),
        rates=_rates(plan, scored=False),
        scored_rates=None if setup.ar is None else _rates(plan, scored=True),
        notes=models.notes,
    )


def _check(options: PlanOptions) -> str:
    """Refuse what makes no plan; the dtype by name."""
    files = {"--av": options.av, "--ar": options.ar, "--target": options.target}
    given = [name for name, path in files.items() if path is not None]
    names = ", ".join(pair.short_name for pair in RELEASED_PAIRS)
    if options.pair is None and options.av is None:
        raise CommandError(
            f"got {' and '.join(given) or 'nothing to plan'}, expected --av DIR (with --ar DIR for "
            f"scoring), or --pair with one of {names}"
        )
    if options.pair is not None and given:
        raise CommandError(
            f"got --pair and {given[0]}, expected one of both: a released pair needs no directory"
        )
    for name, got, expected in (
        ("--dtype", options.dtype, ("auto", *DTYPES)),
        ("--quantization", options.quantization, QUANTIZATIONS),
    ):
        if got not in expected:
            raise CommandError(f"{name}: got {got!r}, expected one of {', '.join(expected)}")
    if options.memory is not None and not 0 < options.memory < math.inf:
        raise CommandError(f"--memory: got {options.memory:g}, expected GB, more than 0")
    if not 0 < options.memory_fraction <= 1:
        raise CommandError(
            f"--memory-fraction: got {options.memory_fraction:g}, expected more than 0, at most 1"
        )
    return "bfloat16" if options.dtype == "auto" else options.dtype


def _memory(stated: float | None) -> tuple[int, str]:
    """Bytes to plan for, and whose they are."""
    if stated is not None:
        return int(stated * GB), "as stated"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return int(properties.total_memory), f"this machine's {properties.name}"
    return _H200_GB * GB, "an H200: no GPU here and no --memory given"


def _av(options: PlanOptions) -> Path:
    assert options.av is not None, "_check refuses neither --av nor --pair"
    return options.av


def _released(pair: ReleasedPair, setup: Setup) -> _Models:
    why = "no tokenizer is read for --pair"
    return _Models(
        title=f"released pair {pair.name}, block {pair.layer_index}",
        setup=replace(setup, ar=_first_blocks(setup.av, pair.layer_index + 1)),
        notes=(_assumed_prompt(setup, why), _assumed_template(setup, why)),
    )


def _directories(options: PlanOptions, setup: Setup, dtype: str) -> _Models:
    directory, title, notes = _av(options), str(options.av), []
    sidecar, config = read_sidecar(directory), EngineConfig(device="cpu", dtype=dtype)
    check_av(directory, sidecar, setup.av, config, DTYPES[dtype])
    if (directory / "tokenizer.json").exists():
        prompt = build_prompt(load_tokenizer(directory), sidecar)
        setup = replace(setup, prompt_len=len(prompt.ids), prefix_len=len(prompt.prefix_ids))
    else:
        notes.append(_assumed_prompt(setup, f"{directory} has no tokenizer.json"))
    if options.ar is not None:
        setup, assumed = _with_ar(setup, options.ar, sidecar)
        notes += assumed
        title += f" with {options.ar}"
    if options.target is not None:
        setup, assumed = _with_target(setup, options.target, sidecar.layer_index)
        notes += assumed
        title += f" reading {options.target}"
    return _Models(title=title, setup=setup, notes=tuple(notes))


def _with_ar(setup: Setup, directory: Path, av_sidecar: Sidecar) -> tuple[Setup, list[str]]:
    spec, sidecar = read_spec(directory), read_sidecar(directory)
    check_ar(directory, sidecar, spec.d_model, spec.num_layers)
    check_pair(av_sidecar, sidecar)
    if not (directory / "tokenizer.json").exists():
        note = _assumed_template(setup, f"{directory} has no tokenizer.json")
        return replace(setup, ar=spec), [note]
    template = ReconstructorTemplate.build(load_tokenizer(directory), sidecar)
    return replace(setup, ar=spec, ar_prefix_len=len(template.prefix_ids)), []


def _with_target(setup: Setup, directory: Path, layer_index: int | None) -> tuple[Setup, list[str]]:
    spec = read_spec(directory)
    if spec.d_model != setup.av.d_model:
        raise CheckpointError(
            f"{directory.name}: hidden_size",
            got=spec.d_model,
            expected=f"the AV's {setup.av.d_model}",
            fix="Name the model whose activations the AV was trained on.",
        )
    if layer_index is None:
        raise CheckpointError(
            "the AV's nla_meta.yaml: extraction_layer_index",
            got="nothing",
            expected="the layer K that the AV explains, to read the target there",
            fix="Write it into the sidecar, or plan without --target.",
        )
    if spec.num_layers <= layer_index:
        raise CheckpointError(
            f"{directory.name}: num_hidden_layers",
            got=spec.num_layers,
            expected=f"more than K = {layer_index}, the block the AV reads",
            fix="Name the model whose activations the AV was trained on.",
        )
    require_plain_model(directory)
    watches, text = EngineConfig.num_watches, EngineConfig.max_text_tokens
    longest = min(text + EngineConfig.max_watch_tokens, spec.max_positions)
    setup = replace(
        setup,
        target=spec,
        target_has_head=True,
        target_layers=layer_index + 1,
        watch_tokens=watches * longest,
    )
    note = (
        f"The target is whole, with pages for {watches} Watches of {longest:,} tokens. One that "
        f"only reads (target_generates = false) needs blocks 0 to {layer_index} and neither head "
        "nor pages."
    )
    return setup, [note]


def _first_blocks(spec: ModelSpec, count: int) -> ModelSpec:
    return replace(spec, layers=spec.layers[:count])


def _assumed_prompt(setup: Setup, why: str) -> str:
    return (
        f"Assumed ({why}): a prompt of {setup.prompt_len} tokens, {setup.prefix_len} of them "
        f"shared and {setup.suffix_len} a sequence's own."
    )


def _assumed_template(setup: Setup, why: str) -> str:
    return f"Assumed ({why}): AR prompts share {setup.ar_prefix_len} tokens."


def _check_length(setup: Setup) -> None:
    room = setup.av.max_positions - setup.prompt_len
    if room < 1:
        raise CommandError(
            f"config.json: got max_position_embeddings {setup.av.max_positions}, expected room for "
            f"the prompt's {setup.prompt_len} tokens and those to generate"
        )
    if setup.max_new_tokens > room:
        raise CommandError(
            f"--max-new-tokens: got {setup.max_new_tokens}, but the model has "
            f"{setup.av.max_positions} positions and the prompt takes {setup.prompt_len}; "
            f"use at most {room}"
        )


def _rates(plan: MemoryPlan, *, scored: bool) -> Rates | None:
    """The floor on an H200, whose ceilings are those of 16-bit and fp8 products."""
    if not plan.fits or plan.setup.precision.dtype_bytes > 2:
        return None
    floor = floor_of(plan.setup, H200, scored=scored)
    return Rates(
        explanations_per_second=floor.explanations_per_second(plan.num_sequences),
        single_ms=floor.single_explanation_seconds() * 1e3,
    )
