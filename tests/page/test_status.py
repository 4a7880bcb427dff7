"""The Status view on the embedded pair: what is loaded, what the service does, how it changes."""

from __future__ import annotations

from gloss_client import Client
from support.server_process import ServerProcess
from support.tab import Tab
from support.text_calls import STORY


def test_what_is_loaded(tab: Tab, service: ServerProcess) -> None:
    tab.open("/#status")
    with Client(service.address) as client:
        info = client.model_info()
    shown = tab.wait_text("#status-facts", info.fingerprint[:16])
    for checkpoint in (info.av, info.ar, info.target):
        assert checkpoint is not None and checkpoint.fingerprint[:16] in shown
    assert f"width\n{info.d_model}" in shown
    assert str(round(info.fve_baseline or 0, 4)) in shown


def test_figures_move_and_plots_are_drawn(tab: Tab, service: ServerProcess) -> None:
    tab.open("/#status")
    tab.wait_text("#status-state", "Serving")
    before = tab.wait(lambda: _plots(tab), "plots")
    assert len(before) >= 8
    total = tab.text("#status .totals")
    with Client(service.address) as client:
        client.explain(STORY, seed=1)
    tab.wait(lambda: tab.text("#figure-explanations .value") not in ("0", "–", ""), "a rate")
    tab.wait(lambda: tab.text("#status .totals") != total, "totals")
    rows = tab.wait_text("#status-latencies", "First token")
    assert "p99" in rows
    # A second says more than the one before it: lines are longer.
    tab.wait(lambda: len(_plots(tab).items() - before.items()) >= 5, "other plots")
    ink = tab.drawn("#chart-explanations canvas")[..., 3] > 0
    assert 0.001 < ink.mean() < 0.9


def _plots(tab: Tab) -> dict[str, str]:
    """What each plot shows, by its name."""
    read = """
      const canvases = document.querySelectorAll("#status figure canvas");
      return [...canvases].map((one) => [one.closest("figure").id, one.toDataURL()]);
    """
    return dict(tab.script(read))


def test_a_plot_is_a_table_too(tab: Tab) -> None:
    tab.open("/#status")
    tab.wait_text("#status-state", "Serving")
    tab.find("#chart-batch summary").click()
    table = tab.wait(lambda: tab.text("#chart-batch table"), "the table")
    assert "running" in table and "waiting" in table


def test_plots_follow_the_scheme(tab: Tab) -> None:
    """A plot drawn for a light page is drawn anew for a dark one."""
    tab.open("/#status")
    tab.wait_text("#status-state", "Serving")
    light = tab.wait(lambda: _plots(tab), "plots")
    tab.look(dark=True)
    tab.wait(lambda: len(_plots(tab).items() - light.items()) == len(light), "other drawings")
    paper = tab.screenshot().reshape(-1, 3).mean()
    assert paper < 80
