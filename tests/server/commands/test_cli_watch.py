"""`gloss watch`: what is said and explained, by a server and here, and how it looks.

The real server runs the embedded pair; a made-up one, whose target reads characters, fails when it
is told to.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from gloss_client import Captured, Explanation, Skipped, TargetEnd, TargetToken, TokenPlace
from gloss_engine.text_request import SKIP_REASONS, TextInput
from gloss_server.commands.watch import page as watch_page
from gloss_server.commands.watch.page import WatchPage
from gloss_server.files.result_schema import SCHEMA
from gloss_server.sources.text_source import TextEnded
from support.command_process import end, start_gloss
from support.command_runs import Command
from support.echo_server import EchoServer, echo_server
from support.echo_service import Fault
from support.screen import Screen
from support.server_process import ServerProcess

PROMPT = "Mia is a baker. She"
FAST = ["--tokens-per-second", 0, "--max-pending", 300]
HOSTILE = "\x1b[2J\x07[red]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The embedded pair and its target, served. Left idle."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log) as process:
        yield process.wait_ready()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


def events(stdout: str) -> dict[str, list[dict[str, Any]]]:
    """JSON lines by the name of their event."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in stdout.splitlines():
        one = json.loads(line)
        found.setdefault(one.pop("event"), []).append(one)
    return found


def by_position(explanations: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What does not depend on the moment of each."""
    names = ("position", "sample", "token", "explanation", "token_ids", "flags", "seed", "error")
    return sorted(tuple(map(str, (one[name] for name in names))) for one in explanations)


def test_a_server_and_local_say_the_same(gloss: Command, server: ServerProcess) -> None:
    arguments = ["watch", PROMPT, "--json", "--seed", 3, "--samples", 2, *FAST]
    arguments += ["--positions", "-2:", "--target-max-new-tokens", 30]
    here, there = gloss(*arguments, "--local"), gloss(*arguments, "--address", server.address)
    assert (here.status, there.status) == (0, 0) and here.stderr == there.stderr == ""
    mine, its = events(here.stdout), events(there.stdout)
    assert mine["target_token"] == its["target_token"]
    assert by_position(mine["explanation"]) == by_position(its["explanation"])
    for name in ("prompt", "target_end", "end"):
        assert mine[name] == its[name], name
    tokens = mine["target_token"]
    said = "".join(token["text"] for token in tokens)
    assert said.startswith(" ") or said[0].isalpha()
    assert [token["position"] for token in tokens] == list(range(6, 6 + len(tokens)))
    (last,), explained = mine["end"], mine["explanation"]
    assert last["failed"] == 0 and last["explanations"] == len(explained)
    assert {one["position"] for one in explained} >= {4, 5, 6}
    assert all(one["lag_seconds"] > 0 and one["fve"] is not None for one in explained)
    fields = [*SCHEMA.names, "position", "token_id", "token", "norm", "layer_index", "lag_seconds"]
    assert list(explained[0]) == fields
    server.wait_idle()


def test_every_token_is_explained_or_said_not_to_be(gloss: Command) -> None:
    """Every second one, of a story to its end."""
    ended = gloss("watch", PROMPT, "--json", "--seed", 1, "--local", "--every", 2, *FAST)
    found = events(ended.stdout)
    (last,) = found["end"]
    assert last["target_finish_reason"] == "eos" and found["target_end"][0] == {
        "finish_reason": "eos"
    }
    num_tokens, counts = len(found["target_token"]), last["skip_counts"]
    assert set(counts) <= {"every", "target_ended"} and counts["every"] == num_tokens // 2
    assert len(found["explanation"]) + sum(counts.values()) == num_tokens
    told = [one["reason"] for one in found.get("skipped", [])]
    assert told == ["target_ended"] * counts.get("target_ended", 0)


def test_lines_for_people(gloss: Command, echo: EchoServer) -> None:
    more = ["--seed", 5, "--target-max-new-tokens", 5, "--max-pending", 1]
    ended = gloss("watch", "ab", "--address", echo.address, *more)
    assert ended.status == 0 and ended.stderr == ""
    prompt, seed, *lines, skipped = ended.stdout.splitlines()
    assert (prompt, seed) == ("prompt: ab", "seed: 5")
    assert lines[0].startswith("the model said, and ended (length): ")
    assert [line.split()[0] for line in lines[1:]] == ["3", "5"]
    assert all("0.12 s later" in line and "[no_fve_baseline]" in line for line in lines[1:])
    assert skipped.startswith("skipped   2 max_pending (too many were waiting")
    assert "1 target_ended (the model ended with it)" in skipped


def test_what_is_asked_for(gloss: Command, echo: EchoServer) -> None:
    asked = _asked(gloss, echo)
    assert asked.tokens_per_second == 20 and asked.every == 1
    assert not asked.HasField("max_pending") and not asked.HasField("prompt_positions")
    assert asked.target_options.temperature == pytest.approx(0.7)
    assert asked.target_options.max_new_tokens == 200
    assert asked.target_options.seed == asked.options.seed
    assert (asked.options.temperature, asked.options.max_new_tokens) == (1, 200)
    more = ["--every", 4, "--max-pending", 9, "--tokens-per-second", 0, "--positions", "1,-1"]
    more += ["--target-temperature", 0, "--target-max-new-tokens", 7, "--target-seed", 6]
    more += ["--seed", 5, "--samples", 2, "--no-score", "--temperature", 0.5]
    asked = _asked(gloss, echo, *more)
    assert asked.every == 4 and asked.max_pending == 9
    assert not asked.HasField("tokens_per_second")
    assert list(asked.prompt_positions.list.positions) == [1, -1]
    target = asked.target_options
    assert (target.temperature, target.max_new_tokens, target.seed) == (0, 7, 6)
    options = asked.options
    assert (options.seed, options.num_samples, options.score) == (5, 2, False)
    assert options.temperature == 0.5
    echo.service.limits.max_watch_tokens = 30
    assert _asked(gloss, echo).target_options.max_new_tokens == 30, "what the server allows"
    chat = '[{"role": "user", "content": "ab"}]'
    assert gloss("watch", chat, "--chat", "--address", echo.address).status == 0
    (message,) = echo.service.received[-1].request.prompt.chat.messages
    assert (message.role, message.content) == ("user", "ab")


def _asked(gloss: Command, echo: EchoServer, *more: object) -> Any:
    assert gloss("watch", "ab", "--address", echo.address, *more).status == 0
    call = echo.service.received[-1]
    assert call.method == "Watch"
    return call.request


def test_an_activation_that_fails_alone(gloss: Command, echo: EchoServer) -> None:
    arguments = ["watch", "a!", "--address", echo.address, "--target-max-new-tokens", 4]
    ended = gloss(*arguments, "--json")
    assert ended.status == 3
    found = events(ended.stdout)
    failed = [one for one in found["explanation"] if one["error"] is not None]
    assert found["end"][0]["failed"] == len(failed) > 0
    assert gloss(*arguments).status == 3


def test_text_is_shown_not_obeyed(gloss: Command, echo: EchoServer) -> None:
    for more in ([], ["--json"]):
        ended = gloss("watch", HOSTILE, "--address", echo.address, *more)
        assert ended.status == 0
        assert "\x1b" not in ended.stdout and "\x07" not in ended.stdout


def test_a_full_server_is_waited_for_and_one_that_goes_away_is_not(
    gloss: Command, echo: EchoServer
) -> None:
    full = Fault(code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="QUEUE_FULL", retry_after=0.02)
    echo.service.faults.extend([None, *[full] * 9])
    assert gloss("watch", "ab", "--address", echo.address).status == 0
    lost = Fault(code=grpc.StatusCode.UNAVAILABLE, reason="ENGINE_RESTARTED", after=3)
    echo.service.faults.extend([None, lost])
    ended = gloss("watch", "ab", "--address", echo.address)
    assert ended.status == 1 and "ENGINE_RESTARTED" in ended.stderr
    assert ended.stdout.startswith("prompt: ab\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "--local"], "input: got no token"),
        (["ab", "--local", "--every", "0"], "every: got 0"),
        (["ab", "--local", "--positions", "9"], "positions: got 9"),
        (["ab", "--positions", "some"], "positions: got 'some'"),
        (
            ["ab", "--tokens-per-second", "-1"],
            "error: --tokens-per-second: got -1.0, expected a finite number, 0 or more",
        ),
        (["ab", "--tokens-per-second", "nan"], "error: --tokens-per-second: got nan"),
        (["ab", "--tokens-per-second", "inf", "--local"], "error: --tokens-per-second: got inf"),
        (["ab", "--target-temperature", "-1"], "error: target_temperature: got -1.0"),
        (["ab", "--target-max-new-tokens", "0"], "error: target_max_new_tokens: got 0"),
        (["ab", "--target-seed", "-1"], "error: target_seed: got -1"),
        (["ab", "--max-new-tokens", "0"], "error: max_new_tokens: got 0"),
        (["ab", "--samples", "0"], "--samples: got 0"),
        (["ab", "--chat"], "--chat: messages: got text that is no JSON"),
        (["ab", "--score"], "has no AR loaded"),
        (["ab", "--av", "d"], "--av without --local"),
        (["ab", "--local", "--av", "d"], "--av without --target"),
    ],
)
def test_refused(
    gloss: Command,
    echo: EchoServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    """One line and nothing shown."""
    monkeypatch.setattr("gloss_server.sources.explainer_choice.DEFAULT_ADDRESS", echo.address)
    ended = gloss("watch", *arguments)
    assert ended.status == 2 and said in ended.error


def test_a_server_whose_target_cannot(gloss: Command, echo: EchoServer) -> None:
    echo.service.target_generates = False
    ended = gloss("watch", "ab", "--address", echo.address)
    assert ended.status == 2 and "only reads" in ended.error
    echo.service.has_target = False
    ended = gloss("watch", "ab", "--address", echo.address)
    assert ended.status == 2 and "has no target loaded" in ended.error


def test_text_and_table_grow_on_a_terminal(screen: Callable[..., Screen], echo: EchoServer) -> None:
    echo.service.step_seconds = 0.2
    arguments = ["watch", "the end", "--address", echo.address, "--seed", "4"]
    shown = screen(*arguments, "--target-max-new-tokens", "6")
    shown.until(lambda seen: "said      2 tokens" in seen and "explained 0 of 2" in seen)
    shown.until(lambda seen: "said      5 tokens" in seen)
    shown.until(lambda seen: "ended (length)" in seen and "explained 5 of 5" in seen)
    assert shown.end() == 0
    assert "skipped   1 target_ended" in shown.seen and "seed 4" in shown.seen


def test_an_interrupt_leaves_what_there_is(screen: Callable[..., Screen], echo: EchoServer) -> None:
    echo.service.step_seconds = 0.2
    shown = screen("watch", "the end", "--address", echo.address)
    shown.until(lambda seen: "said      3 tokens" in seen)
    shown.interrupt()
    assert shown.end() == 130
    last = shown.seen.rpartition("the end")[2]
    assert "explained 0 of" in last and "error: interrupted" in last
    assert echo.service.cancelled.wait(30)


def test_a_long_watch_shows_what_fits_while_it_runs_and_all_at_the_end() -> None:
    """Hostile text on a terminal with colours; a prompt longer than its share of the lines."""
    file = io.StringIO()
    console = Console(file=file, width=80, height=20, force_terminal=True, color_system="standard")
    show = WatchPage(console)
    show.begin(TextInput(text=f"{HOSTILE}\nbegin " + "many words " * 100), 1, 9)
    for position in range(60):
        text = f" t{position}\x1b[5m"
        place = TokenPlace(position=position, token_id=1, token=text, norm=1.0, layer_index=2)
        show._page._drawn_at = 0.0
        made = Explanation(
            index=position,
            sample=0,
            explanation=f"said {position}. " * 20 + HOSTILE,
            finish_reason="eos",
            cosine=0.9,
            fve=0.8,
            place=place,
            lag_seconds=0.25,
        )
        token = TargetToken(position=position, token_id=1, text=text)
        show.take([token, Captured(index=position, place=place), made])
    live = file.getvalue()
    token = TargetToken(position=60, token_id=2, text="")
    skipped = Skipped(position=60, reason="target_ended")
    counts = {"every": 2, "target_ended": 1, "newer": 3}
    show.take([token, TargetEnd(finish_reason="eos"), skipped, TextEnded(skip_counts=counts)])
    show.end()
    for hostile in ("\x1b[2J", "\x07", "\x1b[5m"):
        assert hostile not in file.getvalue()
    frames = live.split("explained ")
    assert len(frames) > 50 and max(frame.count("\n") for frame in frames) <= 20
    assert "begin" not in frames[5] and "many words" in frames[5]
    assert "t59\\x1b[5m" in frames[-2] and "t9\\x1b" not in frames[-2].partition("token")[2]
    whole = file.getvalue()[len(live) :]
    assert "begin" in whole and all(f"t{position}\\x1b[5m" in whole for position in range(60))
    assert "not explained: the model" in whole
    assert "2 every (between every n-th), 1 target_ended" in " ".join(whole.split())
    assert "3 newer (a reason of a newer server)" in " ".join(whole.split())
    assert "explained 60 of 60, 0.25 s later (at most 0.25 s), mean FVE 0.80" in whole


def test_every_reason_has_a_meaning() -> None:
    assert set(watch_page._SKIP_MEANINGS) == set(SKIP_REASONS)


def test_output_of_another_process(server: ServerProcess, tmp_path: Path) -> None:
    """At the default pace explanations keep up with the embedded target."""
    log = tmp_path / "log"
    arguments = ["watch", PROMPT, "--address", server.address, "--seed", 1, "--json"]
    assert end(start_gloss([*arguments, "--target-max-new-tokens", 25], log)) == 0
    found = events(log.read_text())
    assert len(found["target_token"]) == len(found["explanation"]) == 25
    assert found["end"][0]["skip_counts"] == {}
