"""Lives and deaths of engines that are a few lines each: when one counts as dead, and how often it
is started again."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import pytest

from gloss_server.link.channel import encode
from gloss_server.link.messages import Failed, FromEngine, Load, Loaded
from gloss_server.link.supervisor import EngineLost, Supervisor, SupervisorPolicy

ORDER = Load(av="av", ar=None)
INFO: Any = None
LOADED = Loaded(info=INFO, load_seconds=0.0, warm_up_seconds=0.0)
TALKS = "import os, sys, time\nfd = int(sys.argv[-1])\n"
"""What each begins with; a message that it sends is its first argument, in hex."""


class Heard:
    """Notes what happens to an engine."""

    def __init__(self) -> None:
        self.loads = 0
        self.deaths: list[str] = []
        self.tracebacks: list[str] = []
        self.changed = asyncio.Event()

    def engine_loaded(self, loaded: Loaded) -> None:
        self.loads += 1
        self.changed.set()

    def engine_died(self, reason: str, restarts_in: float | None) -> None:
        self.deaths.append(reason)
        self.changed.set()

    def engine_failed(self, failed: Failed) -> None:
        self.tracebacks.append(failed.traceback)

    def __getattr__(self, name: str) -> Any:
        assert name.startswith("engine_")
        return lambda *said: None

    async def until(self, is_so: Any) -> None:
        async with asyncio.timeout(10):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()


def supervise(
    heard: Heard, script: str, said: FromEngine | None = None, **policy: Any
) -> Supervisor:
    words = b"" if said is None else encode(said)
    command = (sys.executable, "-I", "-S", "-c", TALKS + script, words.hex())
    return Supervisor(ORDER, heard, SupervisorPolicy(**policy), command)


async def lives(supervisor: Supervisor, heard: Heard, is_so: Any) -> None:
    """Let engines live until something is so."""
    running = asyncio.create_task(supervisor.run())
    try:
        await heard.until(is_so)
    finally:
        supervisor.stop()
        await running


def test_an_engine_whose_socket_outlives_it_is_given_up() -> None:
    """A child of its own holds the socket, so it never closes: silence is all there is."""

    async def scenario() -> None:
        heard = Heard()
        script = (
            "os.write(fd, bytes.fromhex(sys.argv[1]))\n"
            "if os.fork():\n"
            "    os.kill(os.getpid(), 9)\n"
            "while os.read(fd, 65536):\n"
            "    pass\n"
        )
        supervisor = supervise(heard, script, LOADED, heartbeat_timeout=0.2)
        await lives(supervisor, heard, lambda: heard.loads == 2)
        assert heard.deaths[0].startswith("was silent for 0.2")

    asyncio.run(scenario())


def test_who_was_stopped_himself_does_not_take_the_engine_for_dead() -> None:
    """As in a container that is paused, with all that is in it: the engine said nothing either."""

    async def scenario() -> None:
        heard = Heard()
        script = (
            "for pause in [0.7] + [0.02] * 200:\n"
            "    os.write(fd, bytes.fromhex(sys.argv[1]))\n"
            "    time.sleep(pause)\n"
        )
        supervisor = supervise(heard, script, LOADED, heartbeat_timeout=0.4)

        def has_been_stopped() -> bool:
            if heard.loads == 1:
                time.sleep(0.6)
            return heard.loads > 10

        await lives(supervisor, heard, has_been_stopped)
        assert not heard.deaths

    asyncio.run(scenario())


def test_engines_that_die_before_they_are_ready_are_given_up_however_long_they_take() -> None:
    async def scenario() -> None:
        heard = Heard()
        supervisor = supervise(heard, "time.sleep(0.1)", restart_limit=1, restart_window=0.05)
        async with asyncio.timeout(10):
            with pytest.raises(EngineLost, match="died 2 times within 0.05 s of service"):
                await supervisor.run()
        assert heard.deaths == ["exited with status 0"] * 2

    asyncio.run(scenario())


def test_deaths_long_ago_are_forgotten() -> None:
    async def scenario() -> None:
        heard = Heard()
        script = "os.write(fd, bytes.fromhex(sys.argv[1]))\ntime.sleep(0.1)\n"
        supervisor = supervise(heard, script, LOADED, restart_limit=1, restart_window=0.05)
        await lives(supervisor, heard, lambda: len(heard.deaths) == 3)
        assert heard.deaths == ["exited with status 0"] * 3

    asyncio.run(scenario())


def test_an_engine_that_cannot_be_started_is_tried_again() -> None:
    """No descriptor or no process may be left for it at this moment."""

    async def scenario() -> None:
        heard = Heard()
        policy = SupervisorPolicy(restart_limit=1)
        supervisor = Supervisor(ORDER, heard, policy, ("/no/such/engine",))
        with pytest.raises(EngineLost, match="could not be started: No such file"):
            await supervisor.run()
        assert heard.deaths == ["could not be started: No such file or directory"] * 2

    asyncio.run(scenario())


def test_an_unforeseen_end_of_the_first_load_is_told_with_its_traceback() -> None:
    async def scenario() -> None:
        heard = Heard()
        failed = Failed(
            message="failed with KeyError: 'x'", is_refusal=False, traceback="Traceback.."
        )
        supervisor = supervise(heard, "os.write(fd, bytes.fromhex(sys.argv[1]))", failed)
        with pytest.raises(EngineLost, match="failed with KeyError"):
            await supervisor.run()
        assert heard.tracebacks == ["Traceback.."]

    asyncio.run(scenario())
