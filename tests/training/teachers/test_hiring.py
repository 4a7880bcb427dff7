"""A teacher that only estimates: no key, no connection, and what asking it lacks is said."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from gloss_training.errors import ConfigError
from gloss_training.passage import Passage
from gloss_training.teachers.hiring import hire_teacher
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Estimate

PASSAGES = [Passage(doc_id="d", position=9, text=f"Ben number {i}") for i in range(30)]
VARIABLES = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}


def estimated(settings: TeacherSettings, folder: Path, environment: dict[str, str]) -> Estimate:
    async def run() -> Estimate:
        teacher = hire_teacher(
            settings, folder / "answers.jsonl", is_asked=False, environment=environment
        )
        try:
            return await teacher.estimate(PASSAGES)
        finally:
            await teacher.close()

    return asyncio.run(run())


@pytest.mark.parametrize("provider", VARIABLES)
def test_an_estimate_takes_no_key_and_no_connection(
    provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    settings = TeacherSettings(provider=provider, model="m", input_price=1.0, output_price=5.0)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    estimate = estimated(settings, tmp_path, {})
    assert estimate.num_to_ask == 30 and estimate.cost
    assert estimate.counted_by.startswith("length")
    lacks = f"got no key in the environment variable {VARIABLES[provider]}"
    assert estimate.lines()[-1].startswith(
        f"before anybody is asked: teacher {provider} m: {lacks}"
    )
    # The library is there, and so is a key: nothing is lacking, and still nobody is asked.
    estimate = estimated(settings, tmp_path, {VARIABLES[provider]: "a key"})
    assert estimate.counted_by.startswith("length") and not estimate.lacks
    # Who is to be asked is refused at once.
    with pytest.raises(ConfigError, match=lacks):
        hire_teacher(settings, tmp_path / "answers.jsonl", environment={})
