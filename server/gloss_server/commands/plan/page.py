"""How a plan looks: tables for people, an object for scripts."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gloss_engine.floor import H200
from gloss_server.commands.plan.command import GB, Rates, Report
from gloss_server.terminal import print_page, visible

AIM = 0.7
"""Share of the floor's explanations a second that Gloss aims at."""


def print_plan(report: Report, console: Console) -> None:
    """Print a plan at the console's width."""
    parts: list[RenderableType] = [_header(report), Text(), _memory(report), Text(), _batch(report)]
    if report.rates is not None:
        parts += [Text(), _rates(report, report.rates)]
    elif report.plan.fits:
        parts += [
            Text(),
            Text("No floor: the ceilings known are those of 16-bit and fp8 products."),
        ]
    if report.notes:
        parts += [Text(), *(Text(visible(note)) for note in report.notes)]
    if not report.plan.fits:
        parts += [Text(), _advice(report)]
    print_page(Group(*parts), console)


def plan_json(report: Report) -> str:
    """The plan as a JSON object; bytes are bytes, `floor` is null where there is none."""
    plan = report.plan
    setup = plan.setup
    found: dict[str, Any] = {
        "title": report.title,
        "device": report.device,
        "memory_bytes": setup.memory_bytes,
        "memory_fraction": setup.memory_fraction,
        "usable_bytes": setup.usable_bytes,
        "dtype": report.dtype,
        "quantization": setup.precision.quantization,
        "prompt_tokens": setup.prompt_len,
        "shared_tokens": setup.prefix_len,
        "max_new_tokens": setup.max_new_tokens,
        "num_sequences": plan.num_sequences,
        "most_sequences": plan.most_sequences,
        "page_size": setup.page_size,
        "page_bytes": setup.page_bytes,
        "sequence_pages": setup.sequence_pages,
        "num_pages": plan.num_pages,
        "parts": {part.name: part.num_bytes for part in plan.parts},
        "total_bytes": plan.total_bytes,
        "fits": plan.fits,
        "missing_bytes": max(0, plan.missing_bytes),
        "remedies": [remedy.change for remedy in report.remedies],
        "floor": None,
        "notes": list(report.notes),
    }
    if report.rates is not None:
        found["floor"] = {
            "explanation_tokens": setup.typical_tokens,
            **_rates_object("", report.rates),
            **_rates_object("scored_", report.scored_rates),
            "aim": AIM,
        }
    return json.dumps(found, indent=2)


def _rates_object(prefix: str, rates: Rates | None) -> dict[str, float | None]:
    return {
        f"{prefix}explanations_per_second": None
        if rates is None
        else rates.explanations_per_second,
        f"{prefix}single_ms": None if rates is None else rates.single_ms,
    }


def _header(report: Report) -> Text:
    setup = report.plan.setup
    quantised = setup.precision.quantization
    held = report.dtype if quantised == "none" else f"{report.dtype}, linear layers {quantised}"
    memory = (
        f"{_gb(setup.memory_bytes)} GB ({report.device}), "
        f"{_gb(setup.usable_bytes)} of them planned with ({setup.memory_fraction:.0%})"
    )
    return Text.assemble((visible(report.title), "bold"), f"\n{held}\n{visible(memory)}")


def _memory(report: Report) -> Table:
    plan = report.plan
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_footer=True)
    table.add_column(f"{plan.num_sequences:,} at once", "together", min_width=27)
    table.add_column("GB", _gb(plan.total_bytes), justify="right", no_wrap=True)
    for part in plan.parts:
        table.add_row(part.name, _gb(part.num_bytes))
    return table


def _batch(report: Report) -> Table:
    plan, setup = report.plan, report.plan.setup
    tokens = setup.sequence_pages * setup.page_size
    own = setup.sequence_pages * setup.page_bytes
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, min_width=27)
    table.add_column(overflow="fold")
    for name, value in (
        ("most at once", f"{plan.most_sequences:,}" if plan.most_sequences else "none fits"),
        (
            "a sequence",
            f"{setup.sequence_pages} pages for {tokens} tokens, {own / 1e6:.1f} MB: "
            f"{setup.suffix_len} of its prompt and {setup.max_new_tokens} new ones",
        ),
        ("pages", f"{plan.num_pages:,} of {setup.page_bytes / 1e6:.2f} MB"),
    ):
        table.add_row(name, value)
    return table


def _rates(report: Report, rates: Rates) -> Group:
    plan, setup = report.plan, report.plan.setup
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(f"explanations of {setup.typical_tokens} tokens", min_width=27)
    table.add_column("floor", justify="right", no_wrap=True)
    table.add_column(f"{AIM:.0%} of it, the aim", justify="right", no_wrap=True)
    rows = [("", rates)]
    if report.scored_rates is not None:
        rows.append((", every one scored", report.scored_rates))
    for which, found in rows:
        rate = found.explanations_per_second
        table.add_row(f"a second{which}", _rate(rate), _rate(AIM * rate))
    for which, found in rows:
        table.add_row(f"one alone{which}", f"{found.single_ms:,.0f} ms", "")
    assumed = ""
    if setup.precision.quantization == "fp8":
        assumed = f", {H200.fp8_flop_per_second / 1e12:,.0f} in fp8 (assumed)"
    source = (
        f"A floor is a bound, not a measurement: bytes and operations of {plan.num_sequences:,} "
        f"at once on an H200, at {H200.bytes_per_second / 1e12:g} TB/s and "
        f"{H200.flop_per_second / 1e12:g} TFLOP/s{assumed}."
    )
    return Group(table, Text(), Text(source))


def _advice(report: Report) -> Text:
    plan = report.plan
    text = Text.assemble(
        ("Does not fit", "bold red"),
        f": {_gb(plan.missing_bytes)} GB too much for {plan.num_sequences:,} at once.",
    )
    for remedy in report.remedies:
        text.append(f"\nFits with {remedy.change}: up to {remedy.most_sequences:,} at once.")
    if not report.remedies:
        text.append("\nNothing that Gloss can do without makes it fit; it needs a larger GPU.")
    return text.append("\nOne model on several GPUs is not supported.")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / GB:,.1f}" if num_bytes >= GB // 10 else f"{num_bytes / GB:.3f}"
