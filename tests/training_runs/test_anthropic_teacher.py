"""Anthropic's own client against a server that speaks the Messages API as it is on the wire."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from gloss_training.errors import ConfigError, TeacherError
from gloss_training.passage import Passage
from gloss_training.teachers.hiring import hire_teacher
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Answer
from support.teacher_server import (
    GOOD,
    KEY,
    Answers,
    Asked,
    Served,
    TeacherServer,
    message,
    message_error,
    teacher_server,
)

PASSAGES = [Passage(doc_id=f"d{i}", position=9, text=f"Ben number {i}") for i in range(6)]
ENVIRONMENT = {"ANTHROPIC_API_KEY": KEY}


def settings_of(server: TeacherServer, **more: Any) -> TeacherSettings:
    options = {"backoff_s": 0.01, "concurrency": 2, **more}
    return TeacherSettings(
        provider="anthropic", model="claude-test", base_url=server.url, **options
    )


def explain(
    server: TeacherServer, folder: Path, environment: dict[str, str] = ENVIRONMENT, **more: Any
) -> list[Answer]:
    async def run() -> list[Answer]:
        teacher = hire_teacher(
            settings_of(server, **more), folder / "answers.jsonl", environment=environment
        )
        try:
            return await teacher.explain(PASSAGES, lambda answer: None)
        finally:
            await teacher.close()

    return asyncio.run(run())


def once(first: Served, then: Served) -> Answers:
    """The first attempt of every question gets `first`, later ones `then`."""
    seen: set[str] = set()

    def answer(asked: Asked) -> Served:
        if asked.prompt in seen:
            return then
        seen.add(asked.prompt)
        return first

    return answer


def test_what_is_asked_and_what_is_kept(tmp_path: Path) -> None:
    with teacher_server(lambda asked: message(GOOD)) as server:
        answers = explain(server, tmp_path, temperature=0.5)
    assert [answer.outcome for answer in answers] == ["kept"] * 6
    assert answers[0].text.startswith("The story follows a baker")
    asked = server.asked[0]
    assert asked.path == "/v1/messages"
    assert (asked.body["model"], asked.body["max_tokens"]) == ("claude-test", 300)
    assert asked.body["temperature"] == 0.5
    assert "Ben number" in asked.prompt and "80 to 100 words" in asked.prompt


@pytest.mark.parametrize(
    "busy",
    [
        message_error(429, "rate_limit_error", "This request would exceed your rate limit"),
        message_error(529, "overloaded_error", "Overloaded"),
        message_error(500, "api_error", "Internal server error"),
        message_error(503, "api_error", "Service unavailable"),
        Served(status=502, body=b"<html>Bad gateway</html>"),
        Served(status=200, body=b"<html>Welcome to the hotel's network</html>"),
        Served(status=200, body={"type": "surprise"}),
        Served(status=200, body={"type": "message", "content": None}),
        Served(status=200, body=b'{"type": "message", "content": "\xff"}'),
    ],
    ids=["429", "529", "500", "503", "502", "no JSON", "no message", "no content", "no UTF-8"],
)
def test_a_teacher_that_is_busy_or_beside_itself_is_asked_again(
    tmp_path: Path, busy: Served
) -> None:
    with teacher_server(once(busy, message(GOOD))) as server:
        answers = explain(server, tmp_path)
    assert [answer.outcome for answer in answers] == ["kept"] * 6
    assert len(server.asked) == 12


def test_retry_after_is_kept_to(tmp_path: Path) -> None:
    busy = message_error(429, "rate_limit_error", "slow down", retry_after="1")
    with teacher_server(once(busy, message(GOOD))) as server:
        server.answer = lambda asked: busy if asked.number == 0 else message(GOOD)
        answers = explain(server, tmp_path, concurrency=1)
    assert len(server.asked) == 7
    assert server.asked[1].at - server.asked[0].at >= 1.0
    assert answers[0].outcome == "kept"


@pytest.mark.parametrize(
    ("served", "outcome"),
    [
        (message(GOOD, stop_reason="max_tokens"), "truncated"),
        (message("I'd rather not.", stop_reason="refusal"), "refused"),
        (message(""), "empty"),
        (message('{"features": ["a", "b"]}'), "no_tags"),
    ],
    ids=["max_tokens", "refusal", "empty", "JSON"],
)
def test_answers_of_no_use_are_dropped_and_not_paid_for_again(
    tmp_path: Path, served: Served, outcome: str
) -> None:
    with teacher_server(lambda asked: served) as server:
        answers = explain(server, tmp_path)
        assert [answer.outcome for answer in answers] == [outcome] * 6
        assert explain(server, tmp_path) == answers
        assert len(server.asked) == 6


def test_a_wrong_key_ends_the_run_at_once_and_is_not_repeated(tmp_path: Path) -> None:
    wrong = "sk-ant-wrong-0123456789"
    with (
        teacher_server(lambda asked: message(GOOD)) as server,
        pytest.raises(TeacherError, match=r"cannot be asked: HTTP 401") as caught,
    ):
        explain(server, tmp_path, {"ANTHROPIC_API_KEY": wrong})
    assert wrong not in str(caught.value)
    assert KEY not in (tmp_path / "answers.jsonl").read_text()


def test_no_key_is_named_by_its_variable(tmp_path: Path) -> None:
    with (
        teacher_server(lambda asked: message(GOOD)) as server,
        pytest.raises(ConfigError, match="no key in the environment variable ANTHROPIC_API"),
    ):
        explain(server, tmp_path, {})
        with pytest.raises(ConfigError, match="no key in the environment variable MY_KEY"):
            explain(server, tmp_path, {"ANTHROPIC_API_KEY": KEY}, api_key_env="MY_KEY")
        explain(server, tmp_path, {"MY_KEY": KEY}, api_key_env="MY_KEY")


def test_a_question_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    long = message_error(400, "invalid_request_error", "prompt is too long: 210000 tokens")
    with teacher_server(
        lambda asked: long if "number 3\n" in asked.prompt else message(GOOD)
    ) as server:
        answers = explain(server, tmp_path)
    outcomes = [answer.outcome for answer in answers]
    assert outcomes == ["kept", "kept", "kept", "unanswered", "kept", "kept"]


def test_an_answer_that_never_ends_meets_its_deadline(tmp_path: Path) -> None:
    endless = Served(body=b'{"type": "message"', is_endless=True)
    with teacher_server(once(endless, message(GOOD))) as server:
        answers = explain(server, tmp_path, timeout_s=0.3, concurrency=6)
    assert [answer.outcome for answer in answers] == ["kept"] * 6
    assert len(server.asked) == 12


def test_a_teacher_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    with teacher_server(lambda asked: message(GOOD)) as server:
        pass
    with pytest.raises(TeacherError, match=r"not answered 3 questions.*cannot be reached"):
        explain(server, tmp_path, max_attempts=2, max_failures=3)


def test_the_estimate_is_by_the_api_s_own_count(tmp_path: Path) -> None:
    async def estimate(server: TeacherServer) -> Any:
        teacher = hire_teacher(
            settings_of(server, input_price=3.0, output_price=15.0),
            tmp_path / "answers.jsonl",
            environment=ENVIRONMENT,
        )
        try:
            return await teacher.estimate(PASSAGES)
        finally:
            await teacher.close()

    with teacher_server(lambda asked: message(GOOD)) as server:
        server.count = lambda asked: Served(body={"input_tokens": 100})
        made = asyncio.run(estimate(server))
        assert server.asked == [] and len(server.counted) == 6
        assert server.counted[0].path == "/v1/messages/count_tokens"
        assert made.input_tokens == pytest.approx(600, abs=1)
        assert made.cost == pytest.approx(600 * 3e-6 + 6 * 150 * 15e-6, rel=0.01)
        # A count that cannot be had is no reason to stop; a wrong key is.
        server.count = lambda asked: message_error(529, "overloaded_error", "Overloaded")
        assert "length" in asyncio.run(estimate(server)).counted_by
        server.count = lambda asked: message_error(403, "permission_error", "not yours")
        with pytest.raises(TeacherError, match="HTTP 403"):
            asyncio.run(estimate(server))


def test_a_judge_scores_by_the_same_api(tmp_path: Path) -> None:
    async def judge(server: TeacherServer) -> list[float]:
        teacher = hire_teacher(
            settings_of(server), tmp_path / "judgements.jsonl", environment=ENVIRONMENT
        )
        try:
            return await teacher.judge([(passage, "It is about Ben.") for passage in PASSAGES])
        finally:
            await teacher.close()

    def answer(asked: Asked) -> Served:
        if "number 1\n" in asked.prompt:
            return message("wonderful")
        return message("<score>0.75</score>")

    with teacher_server(answer) as server:
        scores = asyncio.run(judge(server))
    assert [score for score in scores if not math.isnan(score)] == [0.75] * 5
    assert math.isnan(scores[1])
    assert len(server.asked) == 7


def test_a_reply_without_end_fills_no_memory(tmp_path: Path) -> None:
    with teacher_server(lambda asked: message(GOOD + "x" * (1 << 22))) as server:
        answers = explain(server, tmp_path)
    assert [answer.outcome for answer in answers] == ["unanswered"] * 6
    assert len(server.asked) == 6
