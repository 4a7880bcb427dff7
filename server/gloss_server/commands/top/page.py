"""What `gloss top` shows of a server: a page for a terminal, an object for scripts.

Every string here came over the network: it is made visible and cut before it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gloss_api.v1 import gloss_pb2
from gloss_server.commands.top.history import History, known, sparkline
from gloss_server.terminal import visible

_MAX_TEXT = 48
_MAX_COUNTS = 6
_MAX_LATENCIES = 12
_BAR_WIDTH = 16
_FULL_WIDTH, _LATENCIES_WIDTH = 80, 66
"""Narrower terminals get their figures in one column, and fewer quantiles."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known of a server at this moment.

    Attributes:
        address: where it was asked.
        stats: its last answer.
        info: what it has loaded; None: not known.
        trouble: why there is no newer answer; None: this one is new.
        is_known: whether it has ever answered.
    """

    address: str
    stats: gloss_pb2.GetStatsResponse
    info: gloss_pb2.GetModelInfoResponse | None
    trouble: str | None = None
    is_known: bool = True


def page(view: View, width: int, history: History | None = None) -> RenderableType:
    """The page.

    Args:
        view: what is known of the server.
        width: of the terminal.
        history: of what came before; None: nothing did.
    """
    parts: list[RenderableType] = [_header(view), Text(), *_figures(view.stats, width), Text()]
    if view.stats.latencies:
        parts += [_latencies(view.stats.latencies, width), Text()]
    if history is not None and len(history.tokens_per_second) > 1:
        parts += [*_past(history, width), Text()]
    parts += _totals(view)
    if view.trouble is not None:
        parts += [Text(), Text(visible(view.trouble), style="bold red")]
    return Group(*parts)


def view_json(view: View) -> str:
    """Both answers as one line of JSON, fields as the contract names them; info may be null."""
    info = None if view.info is None else plain(view.info)
    return json.dumps({"address": view.address, "stats": plain(view.stats), "model": info})


def plain(message: Message) -> dict[str, Any]:
    """A message as a dict. Unlike protobuf's own JSON, whole numbers stay numbers.

    Optional fields and messages that are not set are None.
    """
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.has_presence and not message.HasField(field.name):
        return None
    if field.message_type is not None:
        return [plain(entry) for entry in value] if field.is_repeated else plain(value)
    if field.enum_type is not None:
        return _enum_name(field.enum_type, value)
    return list(value) if field.is_repeated else value


def _enum_name(enum: Any, number: int) -> str:
    known = enum.values_by_number.get(number)
    return str(number) if known is None else str(known.name)


def _header(view: View) -> Table:
    table = Table.grid(expand=True, padding=(0, 2))
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    info, stats = view.info, view.stats
    loaded = Text()
    if info is not None:
        quantized = [info.quantization] if info.quantization not in ("", "none") else []
        invariant = ["batch-invariant"] if info.batch_invariant else []
        words = [info.model, info.device, info.dtype, *quantized, *invariant, info.fingerprint]
        words.append(f"gloss {info.version}")
        loaded.append("  ".join(shown(word) for word in words))
    table.add_row(Text(shown(view.address), style="bold"), state(stats))
    table.add_row(loaded, Text(f"up {_span(stats.uptime_seconds)}"))
    return table


def state(stats: gloss_pb2.GetStatsResponse) -> Text:
    """What a server can do now, in a word."""
    name = _enum_name(gloss_pb2.ServingState.DESCRIPTOR, stats.state)
    serving = stats.state == gloss_pb2.SERVING_STATE_SERVING
    style = "bold green" if serving else "bold yellow"
    return Text(name.removeprefix("SERVING_STATE_").lower(), style=style)


def _figures(stats: gloss_pb2.GetStatsResponse, width: int) -> list[Table]:
    """What goes on now, in two columns where there is room for them."""
    rates = [
        ("explanations/s", f"{stats.explanations_per_second:,.1f}"),
        ("tokens/s", f"{stats.tokens_per_second:,.0f}"),
        ("calls in flight", f"{stats.calls_in_flight:,}"),
        ("waiting to score", f"{stats.waiting_to_score:,}"),
        ("engine restarts", f"{stats.engine_restarts:,}"),
        ("engine memory", _bytes(stats.engine_memory_bytes)),
    ]
    loads = [
        ("running", *_share(stats.running, stats.num_slots)),
        ("KV pages", *_share(stats.kv_pages_used, stats.kv_pages_total)),
        ("waiting", f"{stats.waiting:,}", f"of them batch {stats.waiting_batch:,}"),
        ("reading", f"{stats.reading:,}", "texts"),
        ("watching", f"{stats.watching:,}", "targets"),
    ]
    if stats.device_memory_bytes > 0:
        held, there_are = stats.device_memory_reserved_bytes, stats.device_memory_bytes
        _, bar = _share(held, there_are)
        loads.append(("device memory", f"{_bytes(held)} / {_bytes(there_are)}", bar))
    else:
        loads.append(("", "", ""))
    if width < _FULL_WIDTH:
        return [_grid([*rates, *(load[:2] for load in loads if load[0])])]
    return [_grid([rate + load for rate, load in zip(rates, loads, strict=True)])]


def _grid(rows: Sequence[tuple[str, ...]]) -> Table:
    """Names at the left of their columns, and numbers at the right of theirs."""
    table = Table.grid(padding=(0, 3))
    for index in range(len(rows[0])):
        table.add_column(justify="right" if index in (1, 3) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _share(used: int, there_are: int) -> tuple[str, str]:
    share = min(max(used / there_are, 0.0), 1.0) if there_are > 0 else 0.0
    filled = round(share * _BAR_WIDTH)
    bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
    return f"{used:,} / {there_are:,}", f"{bar} {share:4.0%}"


def _latencies(latencies: Iterable[gloss_pb2.LatencyQuantiles], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("last minute", min_width=14)
    names = ("p50", "p90", "p95", "p99") if width >= _LATENCIES_WIDTH else ("p50", "p95")
    for name in ("count", *names):
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    for latency in list(latencies)[:_MAX_LATENCIES]:
        cells = (f"{latency.count:,}", *(duration(getattr(latency, name)) for name in names))
        table.add_row(Text(shown(latency.name).replace("_", " ")), *(Text(cell) for cell in cells))
    return table


def _past(history: History, width: int) -> list[Text]:
    """The last minutes as bars, each beside the largest value in it."""
    tokens, firsts = history.tokens_per_second, history.first_token_p95
    room = max(width - 34, 8)
    lines = [
        f"{'tokens/s':<16}{sparkline(tokens, room)}  up to {max(known(tokens), default=0):,.0f}"
    ]
    if drawn := known(firsts):
        bars = sparkline(firsts, room)
        lines.append(f"{'first token p95':<16}{bars}  up to {duration(max(drawn))}")
    return [Text(line, no_wrap=True) for line in lines]


def _totals(view: View) -> list[RenderableType]:
    """What has happened since the start, a line for each kind that did."""
    stats, info = view.stats, view.info
    lines = []
    if stats.explanations:
        lines.append(f"explanations  {_counts(stats.explanations)}")
    if stats.HasField("mean_mse"):
        fidelity = f"mean mse {stats.mean_mse:.4g} of {stats.scored:,} scored"
        if info is not None and info.HasField("fve_baseline") and info.fve_baseline > 0:
            fidelity += f", mean FVE {1 - stats.mean_mse / info.fve_baseline:.3f}"
        lines.append(f"fidelity      {fidelity}")
    if stats.item_errors:
        lines.append(f"failed        {_counts(stats.item_errors)}")
    if stats.rejections:
        lines.append(f"refused       {_counts(stats.rejections)}")
    if stats.target_tokens_read:
        lines.append(
            f"target        read {stats.target_tokens_read:,} tokens, generated "
            f"{stats.target_tokens_generated:,}, captured {stats.captured:,} activations"
        )
    if stats.skipped:
        lines.append(f"skipped       {_counts(stats.skipped)}")
    return [Text(line) for line in lines]


def _counts(counts: Iterable[gloss_pb2.NamedCount]) -> str:
    most = sorted(counts, key=lambda count: -count.count)
    named = [f"{shown(count.name)} {count.count:,}" for count in most[:_MAX_COUNTS]]
    return ", ".join(named + (["..."] if len(most) > _MAX_COUNTS else []))


def shown(text: str) -> str:
    """Text of a server's, made visible and cut."""
    return visible(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")


def duration(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds * 1000:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _span(seconds: float) -> str:
    whole = int(seconds) if 0 <= seconds < 1e9 else 0
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
