"""What `gloss top` draws at any width: figures, the last minutes, a line for each of several."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server.commands.top.history import History, sparkline
from gloss_server.commands.top.page import View, page
from gloss_server.commands.top.table import table


def stats(**fields: object) -> pb.GetStatsResponse:
    usual: dict[str, object] = {
        "state": pb.SERVING_STATE_SERVING,
        "running": 48,
        "num_slots": 64,
        "waiting": 1234,
        "waiting_batch": 1000,
        "tokens_per_second": 28123.4,
        "reading": 3,
        "watching": 2,
        "engine_memory_bytes": 3 * 2**29,
        "target_tokens_read": 777,
        "captured": 44,
        "skipped": [pb.NamedCount(name="max_pending", count=6)],
        "latencies": [
            pb.LatencyQuantiles(name="first_token", count=9, p50=0.1, p90=0.2, p95=0.3, p99=0.4)
        ],
    }
    return pb.GetStatsResponse(**(usual | fields))  # type: ignore[arg-type]


def view(address: str = "127.0.0.1:50051", **fields: object) -> View:
    return View(address=address, stats=stats(**fields), info=None)


def drawn(page: RenderableType, width: int) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(page, highlight=False, markup=False)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize("width", [48, 60, 79, 80, 100, 200])
def test_every_figure_is_there_at_any_width(width: int) -> None:
    lines = drawn(page(view(), width), width)
    text = "\n".join(lines)
    assert all(len(line) <= width for line in lines) and "…" not in text
    for shown in ("48 / 64", "1,234", "28,123", "1.5 GiB", "reading", "watching", "300.0 ms"):
        assert shown in text, shown
    assert ("of them batch 1,000" in text) is (width >= 80)
    assert ("p99" in text) is (width >= 66)
    assert "777 tokens" in text and "max_pending 6" in text and "device memory" not in text


def test_a_devices_memory_stands_there_where_there_is_any() -> None:
    on_gpu = view(device_memory_bytes=80 * 2**30, device_memory_reserved_bytes=60 * 2**30)
    assert "device memory   60.0 GiB / 80.0 GiB" in "\n".join(drawn(page(on_gpu, 100), 100))


def test_the_last_minutes_are_bars() -> None:
    history = History()
    for rate in (0, 100, 50):
        history.add(stats(tokens_per_second=rate))
    history.add(stats(tokens_per_second=0, latencies=[]))
    lines = drawn(page(view(), 80, history), 80)
    assert "tokens/s        ▁█▅▁  up to 100" in lines
    assert "first token p95 ███   up to 300.0 ms" in lines
    # One moment has no past.
    assert "▁" not in "".join(drawn(page(view(), 80, None), 80))


@pytest.mark.parametrize(("width", "bars"), [(6, "▁▂▃▅▆█"), (3, "▂▅█"), (2, "▃█"), (1, "█")])
def test_bars_show_the_largest_of_what_they_stand_for(width: int, bars: str) -> None:
    assert sparkline([0, 1, 2, 4, 5, 7], width) == bars


def test_bars_of_what_is_unknown_or_no_number() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([None, 1, float("nan"), float("inf"), -1], 9) == " █   "
    assert sparkline([0, 0], 5) == "▁▁"


@pytest.mark.parametrize(
    ("width", "there"),
    [(50, ["running"]), (80, ["running", "first p95"]), (140, ["running", "refused", "restarts"])],
)
def test_several_servers_have_a_line_each(width: int, there: list[str]) -> None:
    gone = View(
        address="10.0.0.9:50051",
        stats=pb.GetStatsResponse(),
        info=None,
        trouble="no server answers there.",
        is_known=False,
    )
    views = [view("10.0.0.7:50051"), view("10.0.0.8:50051"), gone]
    lines = drawn(table(views, width), width)
    text = " ".join(lines)
    assert all(len(line) <= width for line in lines) and "…" not in text
    assert all(name in lines[0] for name in there)
    assert "48 / 64" in lines[2] and "48 / 64" in lines[3] and "no answer" in lines[4]
    assert "2 of 3 answer: 96 run, 2,468 wait, 56,247 tokens/s" in text.replace("  ", " ")
    assert "10.0.0.9:50051: no server answers there." in lines
