"""OpenAI's own client against a server that speaks chat completions as they are on the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gloss_training.errors import TeacherError
from gloss_training.passage import Passage
from gloss_training.teachers.hiring import hire_teacher
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Answer
from support.teacher_server import (
    GOOD,
    KEY,
    Asked,
    Served,
    TeacherServer,
    completion,
    completion_error,
    teacher_server,
)

PASSAGES = [Passage(doc_id=f"d{i}", position=9, text=f"Ben number {i}") for i in range(6)]


def explain(
    server: TeacherServer, folder: Path, environment: dict[str, str] | None = None, **more: Any
) -> list[Answer]:
    options = {"backoff_s": 0.01, "concurrency": 2, **more}
    settings = TeacherSettings(
        provider="openai", model="test-model", base_url=server.openai_url, **options
    )
    given = {"OPENAI_API_KEY": KEY} if environment is None else environment

    async def run() -> list[Answer]:
        teacher = hire_teacher(settings, folder / "answers.jsonl", environment=given)
        try:
            return await teacher.explain(PASSAGES, lambda answer: None)
        finally:
            await teacher.close()

    return asyncio.run(run())


def test_what_is_asked_and_what_is_kept(tmp_path: Path) -> None:
    with teacher_server(lambda asked: completion(GOOD)) as server:
        answers = explain(server, tmp_path)
        explain(server, tmp_path, max_tokens=200, max_tokens_field="max_completion_tokens")
    assert [answer.outcome for answer in answers] == ["kept"] * 6
    assert server.asked[0].path == "/v1/chat/completions"
    assert server.asked[0].body["max_tokens"] == 300
    assert "temperature" not in server.asked[0].body
    assert server.asked[-1].body["max_completion_tokens"] == 200


@pytest.mark.parametrize(
    "busy",
    [
        completion_error(429, "rate_limit_exceeded", "Rate limit reached", retry_after_ms="50"),
        completion_error(500, "server_error", "The server had an error"),
        completion_error(503, "engine_overloaded", "The engine is overloaded"),
        Served(status=200, body=b"<html></html>"),
        Served(status=200, body={"choices": []}),
        Served(status=200, body=b'{"choices": [{"message": {"content": "\xff"}}]}'),
        Served(status=200, body=b"[" * 100_000),
    ],
    ids=["429", "500", "503", "no JSON", "no choice", "no UTF-8", "no end"],
)
def test_a_teacher_that_is_busy_or_beside_itself_is_asked_again(
    tmp_path: Path, busy: Served
) -> None:
    seen: set[str] = set()

    def answer(asked: Asked) -> Served:
        if asked.prompt in seen:
            return completion(GOOD)
        seen.add(asked.prompt)
        return busy

    with teacher_server(answer) as server:
        answers = explain(server, tmp_path)
    assert [answer.outcome for answer in answers] == ["kept"] * 6
    assert len(server.asked) == 12


@pytest.mark.parametrize(
    ("served", "outcome"),
    [
        (completion(GOOD, finish_reason="length"), "truncated"),
        (completion(GOOD, finish_reason="content_filter"), "refused"),
        (completion(None), "empty"),
        (completion('```json\n{"features": []}\n```'), "no_tags"),
    ],
    ids=["length", "content_filter", "null", "JSON"],
)
def test_answers_of_no_use_are_dropped(tmp_path: Path, served: Served, outcome: str) -> None:
    with teacher_server(lambda asked: served) as server:
        assert [a.outcome for a in explain(server, tmp_path)] == [outcome] * 6


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (completion_error(429, "insufficient_quota", "You exceeded your current quota"), "429"),
        (completion_error(404, "model_not_found", "The model `x` does not exist"), "404"),
        (completion_error(403, "unsupported_country", "not in your country"), "403"),
    ],
    ids=["quota", "model", "forbidden"],
)
def test_what_no_question_can_mend_ends_the_run(tmp_path: Path, served: Served, said: str) -> None:
    with (
        teacher_server(lambda asked: served) as server,
        pytest.raises(TeacherError, match=f"cannot be asked: HTTP {said}"),
    ):
        explain(server, tmp_path)
    assert len(server.asked) <= 2


def test_a_key_is_not_repeated_where_the_server_does(tmp_path: Path) -> None:
    wrong = "sk-proj-secret0123456789"
    with (
        teacher_server(lambda asked: completion(GOOD)) as server,
        pytest.raises(TeacherError, match=r"HTTP 401") as caught,
    ):
        explain(server, tmp_path, {"OPENAI_API_KEY": wrong})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


def test_a_server_of_ones_own_needs_no_key(tmp_path: Path) -> None:
    # This one does need a key, so what arrives can be seen in its refusal.
    with (
        teacher_server(lambda asked: completion(GOOD)) as server,
        pytest.raises(TeacherError, match=r"API key provided: NONE"),
    ):
        explain(server, tmp_path, {}, api_key_env="NONE")


def test_requests_are_spread_over_the_minute(tmp_path: Path) -> None:
    with teacher_server(lambda asked: completion(GOOD)) as server:
        explain(server, tmp_path, requests_per_minute=600, concurrency=6)
    times = [asked.at for asked in server.asked]
    # A tenth of a second each, whatever the machine: none comes early.
    assert times[-1] - times[0] >= 0.45


def test_a_reply_without_end_fills_no_memory(tmp_path: Path) -> None:
    with teacher_server(lambda asked: completion(GOOD + "x" * (1 << 22))) as server:
        answers = explain(server, tmp_path)
    assert [answer.outcome for answer in answers] == ["unanswered"] * 6
    assert len(server.asked) == 6
