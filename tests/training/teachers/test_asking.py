"""Asking with a made-up API and clock: pace, attempts, what is kept, what ends a run."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gloss_training.errors import DiskError, TeacherError
from gloss_training.passage import Passage
from gloss_training.teachers.answer_file import AnswerFile, question_key
from gloss_training.teachers.api import ApiError, Reply, Trouble, clean, retry_after, trouble_of
from gloss_training.teachers.api_teacher import ApiTeacher
from gloss_training.teachers.asking import ask_all
from gloss_training.teachers.attempts import Attempts
from gloss_training.teachers.pace import Pace
from gloss_training.teachers.settings import TeacherSettings
from gloss_training.teachers.teacher import Answer

GOOD = "<features>\nA story about Ben the baker.\nThe last word asks for a noun.\n</features>"
SETTINGS = TeacherSettings(provider="openai", model="m", concurrency=3, max_attempts=4)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        wake = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, wake)


class Api:
    """Answers as a function of the question and of how often it was asked."""

    def __init__(self, answer: Callable[[str, int], Reply | ApiError]) -> None:
        self._answer = answer
        self.asked: list[str] = []
        self.in_flight = self.most_in_flight = 0

    async def send(self, prompt: str) -> Reply:
        number = self.asked.count(prompt)
        self.asked.append(prompt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.in_flight -= 1
        answer = self._answer(prompt, number)
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def count_tokens(self, prompt: str) -> int | None:
        return len(prompt) // 2

    async def close(self) -> None:
        pass


def attempts_of(api: Api, clock: Clock, settings: TeacherSettings = SETTINGS) -> Attempts:
    pace = Pace(settings.requests_per_minute, settings.tokens_per_minute, clock, clock.sleep)
    return Attempts(api, pace, settings)


def ask(
    prompts: list[str], api: Api, path: Path, settings: TeacherSettings = SETTINGS
) -> list[Reply | None]:
    answers = AnswerFile(path)
    try:
        return asyncio.run(ask_all(prompts, attempts_of(api, Clock(), settings), answers))
    finally:
        answers.close()


def echo(prompt: str, number: int) -> Reply:
    return Reply(text=f"{prompt}!")


def test_replies_stand_in_the_order_of_the_questions(tmp_path: Path) -> None:
    api = Api(echo)
    replies = ask([f"q{i}" for i in range(20)], api, tmp_path / "a.jsonl")
    assert [reply.text for reply in replies if reply] == [f"q{i}!" for i in range(20)]
    assert api.most_in_flight == SETTINGS.concurrency


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    api = Api(echo)
    ask(["a", "b", "a", "a"], api, tmp_path / "a.jsonl")
    assert sorted(api.asked) == ["a", "b"]
    replies = ask(["c", "b", "a"], api, tmp_path / "a.jsonl")
    assert sorted(api.asked) == ["a", "b", "c"]
    assert [reply.text for reply in replies if reply] == ["c!", "b!", "a!"]


def test_another_model_or_length_is_another_question() -> None:
    keys = {
        question_key(settings, "q")
        for settings in (
            SETTINGS,
            TeacherSettings(provider="openai", model="n"),
            TeacherSettings(provider="anthropic", model="m"),
            TeacherSettings(provider="openai", model="m", max_tokens=9),
            TeacherSettings(provider="openai", model="m", temperature=0.0),
        )
    }
    assert len(keys) == 5
    faster = TeacherSettings(provider="openai", model="m", requests_per_minute=9, concurrency=1)
    assert question_key(faster, "q") == question_key(SETTINGS, "q")


def test_a_busy_teacher_is_asked_again_after_growing_waits(tmp_path: Path) -> None:
    clock = Clock()
    api = Api(lambda p, n: Reply(text="ok") if n == 3 else ApiError(Trouble.BUSY, "busy"))
    reply = asyncio.run(attempts_of(api, clock).ask("q", 1))
    assert reply == Reply(text="ok")
    first, second, third = clock.slept
    assert 0.5 <= first <= 1 and 1 <= second <= 2 and 2 <= third <= 4


def test_retry_after_makes_everybody_wait() -> None:
    clock = Clock()
    api = Api(lambda p, n: ApiError(Trouble.BUSY, "429", 30.0) if n == 0 else echo(p, n))
    attempts = attempts_of(api, clock)
    paused: list[float] = []
    pause = attempts.pace.pause
    attempts.pace.pause = lambda seconds: (paused.append(seconds), pause(seconds))[1]  # type: ignore[method-assign]
    assert asyncio.run(attempts.ask("a", 1)) == Reply(text="a!")
    assert paused == [30.0] and clock.now >= 30


def test_retry_after_the_last_attempt_makes_the_next_question_wait() -> None:
    clock = Clock()
    api = Api(lambda p, n: ApiError(Trouble.BUSY, "429", 30.0) if p == "a" else echo(p, n))
    settings = TeacherSettings(provider="openai", model="m", max_attempts=1)
    attempts = attempts_of(api, clock, settings)
    assert asyncio.run(attempts.ask("a", 1)) is None
    assert asyncio.run(attempts.ask("b", 1)) == Reply(text="b!") and clock.now >= 30


def test_who_still_waits_asks_nothing_once_the_run_ends(tmp_path: Path) -> None:
    """Its answer would be paid for, and on a full disk lost."""

    class Slow(Clock):
        async def sleep(self, seconds: float) -> None:
            for _ in range(9):
                await asyncio.sleep(0)
            await super().sleep(seconds)

    api = Api(lambda p, n: ApiError(Trouble.CLOSED, "HTTP 402"))
    settings = TeacherSettings(provider="openai", model="m", requests_per_minute=1)
    answers = AnswerFile(tmp_path / "a.jsonl")
    attempts = attempts_of(api, Slow(), settings)
    with pytest.raises(TeacherError, match="HTTP 402"):
        asyncio.run(ask_all([f"q{i}" for i in range(50)], attempts, answers))
    answers.close()
    assert api.asked == ["q0"]


def test_a_pause_holds_whoever_comes() -> None:
    clock = Clock()
    pace = Pace(0, 0, clock, clock.sleep)
    pace.pause(30)
    pace.pause(5)
    asyncio.run(pace.turn(1))
    assert clock.now == 30


def test_a_teacher_that_asks_to_wait_too_long_ends_the_run() -> None:
    api = Api(lambda p, n: ApiError(Trouble.BUSY, "429", 4000.0))
    with pytest.raises(TeacherError, match=r"asks to wait 4,000 s, expected at most 600"):
        asyncio.run(attempts_of(api, Clock()).ask("q", 1))


def test_a_question_that_is_refused_is_left_and_the_rest_goes_on(tmp_path: Path) -> None:
    api = Api(lambda p, n: ApiError(Trouble.REFUSED, "no") if p == "bad" else echo(p, n))
    replies = ask(["a", "bad", "b"], api, tmp_path / "a.jsonl")
    assert [reply and reply.text for reply in replies] == ["a!", None, "b!"]
    assert api.asked.count("bad") == 1


def test_a_dead_teacher_ends_the_run_soon(tmp_path: Path) -> None:
    api = Api(lambda p, n: ApiError(Trouble.BUSY, "it cannot be reached"))
    settings = TeacherSettings(provider="openai", model="m", max_attempts=2, max_failures=5)
    with pytest.raises(TeacherError, match=r"has not answered 5 questions in a row.*be reached"):
        ask([f"q{i}" for i in range(500)], api, tmp_path / "a.jsonl", settings)
    assert len(set(api.asked)) <= 5 + settings.concurrency


def test_failures_that_are_not_in_a_row_end_nothing(tmp_path: Path) -> None:
    api = Api(lambda p, n: ApiError(Trouble.REFUSED, "no") if int(p) % 2 else echo(p, n))
    settings = TeacherSettings(provider="openai", model="m", max_failures=2, concurrency=1)
    replies = ask([str(i) for i in range(20)], api, tmp_path / "a.jsonl", settings)
    assert replies.count(None) == 10


def test_a_closed_door_ends_the_run_and_keeps_what_was_in_flight(tmp_path: Path) -> None:
    api = Api(lambda p, n: ApiError(Trouble.CLOSED, "HTTP 401") if p == "q5" else echo(p, n))
    prompts = [f"q{i}" for i in range(50)]
    with pytest.raises(TeacherError, match="cannot be asked: HTTP 401"):
        ask(prompts, api, tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert len(lines) == len(api.asked) - 1
    replies = ask(prompts, good := Api(echo), tmp_path / "a.jsonl")
    assert None not in replies
    assert len(good.asked) == 50 - len(lines)


def test_an_endless_answer_meets_its_deadline() -> None:
    class Endless(Api):
        async def send(self, prompt: str) -> Reply:
            self.asked.append(prompt)
            await asyncio.sleep(60)
            raise AssertionError

    settings = TeacherSettings(provider="openai", model="m", max_attempts=2, timeout_s=0.02)
    attempts = attempts_of(api := Endless(echo), Clock(), settings)
    assert asyncio.run(attempts.ask("q", 1)) is None
    assert api.asked == ["q", "q"]
    assert attempts.last_failure == "no answer within 0.02 s"


def test_requests_and_tokens_keep_to_their_limits() -> None:
    clock = Clock()
    pace = Pace(requests_per_minute=60, tokens_per_minute=6000, clock=clock, sleep=clock.sleep)
    started: list[float] = []

    async def question(tokens: float) -> None:
        await pace.turn(tokens)
        started.append(clock.now)

    async def all_of_them() -> None:
        for tokens in (100, 100, 400, 100, 10):
            await question(tokens)

    asyncio.run(all_of_them())
    # A second a request; 100 tokens are a second, 400 are four.
    assert started == pytest.approx([0, 1, 2, 6, 7])


def test_tokens_that_were_booked_in_vain_come_back() -> None:
    clock = Clock()
    pace = Pace(0, 60, clock, clock.sleep)

    async def ask_two() -> None:
        await pace.turn(100)
        pace.correct(-90)
        await pace.turn(1)

    asyncio.run(ask_two())
    assert clock.now == pytest.approx(10)


def test_a_torn_line_is_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ask(["a", "b"], Api(echo), path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "abc", "text": "' + b"x" * 999)
    answers = AnswerFile(path)
    assert len(answers) == 2
    answers.add("k", Reply(text="é\n"))
    answers.close()
    assert path.read_bytes().startswith(whole) and path.read_bytes().endswith(b"\n")
    again = AnswerFile(path)
    assert again.get("k") == Reply(text="é\n")
    again.close()


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "mine"}\n')
    with pytest.raises(TeacherError, match="got no reply in line 1"):
        AnswerFile(path)
    assert path.read_text() == '{"text": "mine"}\n'


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    answers = AnswerFile(tmp_path / "a.jsonl")
    with pytest.raises(TeacherError, match="another run is writing it"):
        AnswerFile(tmp_path / "a.jsonl")
    answers.close()


def test_a_full_disk_loses_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    room = 400
    write = os.write

    def limited(file: int, data: memoryview) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(file, bytes(data)[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    api = Api(echo)
    with pytest.raises(DiskError, match=r"a\.jsonl could not be written: the disk is full"):
        ask([f"q{i}" for i in range(50)], api, path)
    monkeypatch.undo()
    lines = path.read_text().splitlines()
    assert 0 < len(lines) < 50 and all(json.loads(line)["text"] for line in lines)
    # Who had asked when it happened is the last; nobody asks on.
    assert len(api.asked) <= len(lines) + SETTINGS.concurrency
    ask([f"q{i}" for i in range(50)], again := Api(echo), path)
    assert len(again.asked) == 50 - len(lines)


@pytest.mark.parametrize(
    ("status", "said", "trouble"),
    [
        (401, "", Trouble.CLOSED),
        (404, "model not found", Trouble.ABSENT),
        (400, "Your credit balance is too low", Trouble.CLOSED),
        (429, "insufficient_quota", Trouble.CLOSED),
        (429, "rate_limit_exceeded", Trouble.BUSY),
        (529, "overloaded_error", Trouble.BUSY),
        (500, "", Trouble.BUSY),
        (408, "", Trouble.BUSY),
        (400, "prompt is too long", Trouble.REFUSED),
        (413, "", Trouble.REFUSED),
        (422, "", Trouble.REFUSED),
    ],
)
def test_statuses_mean_what_the_providers_say(status: int, said: str, trouble: Trouble) -> None:
    assert trouble_of(status, said) is trouble


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_what_a_server_says_never_repeats_a_key() -> None:
    said = "Incorrect key sk-proj-ab**cd for sesame at https://me:pass@host/v1\n" + "x" * 900
    shown = clean(said, "sesame")
    assert "sesame" not in shown and "sk-proj" not in shown and "pass@" not in shown
    assert "\n" not in shown and len(shown) <= 300


def passages(count: int) -> list[Passage]:
    return [Passage(doc_id=f"d{i}", position=9, text=f"Ben number {i}") for i in range(count)]


def teacher_of(api: Api, path: Path, settings: TeacherSettings = SETTINGS) -> ApiTeacher:
    clock = Clock()
    return ApiTeacher(
        settings=settings,
        api=api,
        answers=AnswerFile(path),
        pace=Pace(0, 0, clock, clock.sleep),
    )


def test_a_teacher_of_garbage_ends_the_run_before_all_is_paid_for(tmp_path: Path) -> None:
    api = Api(lambda p, n: Reply(text='{"features": []}', is_cut_off=len(api.asked) % 2 == 0))
    teacher = teacher_of(api, tmp_path / "a.jsonl")
    with pytest.raises(TeacherError, match=r"40 answers of no use among 40 \(20 no_tags, 20 trun"):
        asyncio.run(teacher.explain(passages(500), lambda answer: None))
    assert len(api.asked) < 50
    asyncio.run(teacher.close())


def test_some_garbage_is_dropped_and_counted(tmp_path: Path) -> None:
    def answer(prompt: str, number: int) -> Reply | ApiError:
        if "number 3\n" in prompt:
            return Reply(text="")
        if "number 5\n" in prompt:
            return ApiError(Trouble.REFUSED, "too long")
        return Reply(text=GOOD)

    teacher = teacher_of(Api(answer), tmp_path / "a.jsonl")
    heard: list[Answer] = []
    answers = asyncio.run(teacher.explain(passages(60), heard.append))
    outcomes = [answer.outcome for answer in answers]
    assert (outcomes[3], outcomes[5]) == ("empty", "unanswered")
    assert outcomes.count("kept") == 58 and len(heard) == 60
    asyncio.run(teacher.close())


def test_a_judge_of_garbage_is_asked_once_more_then_missing(tmp_path: Path) -> None:
    def answer(prompt: str, number: int) -> Reply | ApiError:
        if "number 0\n" in prompt:
            return Reply(text="<score>0.25</score>")
        if "number 1\n" in prompt:
            return Reply(text="<score>1</score>" if prompt.endswith("</score>.") else "good!")
        return Reply(text="eleven")

    api = Api(answer)
    teacher = teacher_of(api, tmp_path / "a.jsonl")
    pairs = [(passage, "It is about Ben.") for passage in passages(3)]
    scores = asyncio.run(teacher.judge(pairs))
    assert scores[:2] == [0.25, 1.0] and math.isnan(scores[2])
    assert len(api.asked) == 5
    # A judge that is asked the same again says the same, and is not paid again.
    assert asyncio.run(teacher.judge(pairs))[:2] == [0.25, 1.0]
    assert len(api.asked) == 5
    asyncio.run(teacher.close())


@pytest.mark.parametrize("trouble", [None, Trouble.REFUSED])
def test_a_judge_that_gives_no_score_ends_the_run(trouble: Trouble | None, tmp_path: Path) -> None:
    """However few it is asked at a time, and however many scores it gave before."""
    scored = 100
    words = "<score>0.5</score>"

    def answer(prompt: str, number: int) -> Reply | ApiError:
        number = int(re.search(r"number (\d+)\n", prompt)[1])
        if number < scored:
            return Reply(text=words)
        return ApiError(trouble, "no") if trouble else Reply(text="eleven")

    api = Api(answer)
    settings = replace(SETTINGS, max_failures=1000)
    teacher = teacher_of(api, tmp_path / "a.jsonl", settings)
    pairs = [(passage, "It is about Ben.") for passage in passages(200)]
    said = r"no score for \d+ of the last 4\d explanations.*a\.jsonl: once"
    with pytest.raises(TeacherError, match=said):
        for start in range(0, 200, 8):
            asyncio.run(teacher.judge(pairs[start : start + 8]))
    assert 100 < start < 180
    asyncio.run(teacher.close())


def test_a_judge_that_is_gone_ends_the_run_over_steps_of_few_questions(tmp_path: Path) -> None:
    teacher = teacher_of(Api(lambda *_: ApiError(Trouble.BUSY, "gone")), tmp_path / "a.jsonl")
    pairs = [(passage, "It is about Ben.") for passage in passages(20)]
    with pytest.raises(TeacherError, match="not answered 20 questions in a row; .* gone"):
        for start in range(0, 20, 4):
            asyncio.run(teacher.judge(pairs[start : start + 4]))
    asyncio.run(teacher.close())


def test_rewordings_stand_in_order_and_are_missing_where_there_is_none(tmp_path: Path) -> None:
    def answer(prompt: str, number: int) -> Reply | ApiError:
        if "text 1\n" in prompt:
            return Reply(text="<reworded>One</reworded>", is_cut_off=True)
        if "text 2\n" in prompt:
            return ApiError(Trouble.REFUSED, "no")
        return Reply(text="<reworded>In other words.</reworded>")

    api = Api(answer)
    teacher = teacher_of(api, tmp_path / "a.jsonl")
    texts = [f"text {index}" for index in range(4)]
    wanted = ["In other words.", None, None, "In other words."]
    assert asyncio.run(teacher.reword(texts)) == wanted
    assert asyncio.run(teacher.reword(texts)) == wanted
    # Only what had no answer is asked again.
    assert len(api.asked) == 5
    asyncio.run(teacher.close())


def test_the_estimate_counts_what_is_not_answered_yet(tmp_path: Path) -> None:
    settings = TeacherSettings(
        provider="openai",
        model="m",
        max_tokens=200,
        input_price=2.0,
        output_price=10.0,
        requests_per_minute=4,
    )
    teacher = teacher_of(Api(lambda p, n: Reply(text=GOOD)), tmp_path / "a.jsonl", settings)
    asyncio.run(teacher.explain(passages(20), lambda answer: None))
    estimate = asyncio.run(teacher.estimate([*passages(60), *passages(60)]))
    assert (estimate.num_questions, estimate.num_to_ask) == (120, 40)
    assert estimate.minutes == 10
    assert (estimate.output_tokens, estimate.most_output_tokens) == (40 * 150, 40 * 200)
    assert estimate.most_cost == pytest.approx(estimate.input_tokens * 2e-6 + 40 * 200 * 1e-5)
    assert not estimate.is_free
    text = "\n".join(estimate.lines())
    assert "40 questions to openai m (80 more are the same as others, or answered already)" in text
    assert "counted by the API, 16 questions of them" in text
    assert "about 0.10 USD, 0.12 at most" in text
    asyncio.run(teacher.close())


def test_an_estimate_without_prices_says_so(tmp_path: Path) -> None:
    teacher = teacher_of(Api(echo), tmp_path / "a.jsonl")
    estimate = asyncio.run(teacher.estimate(passages(2)))
    assert not estimate.is_free
    assert "cost unknown" in "\n".join(estimate.lines())
    asyncio.run(teacher.close())


@pytest.mark.parametrize(
    ("trouble", "said", "is_told"),
    [
        (Trouble.ABSENT, "HTTP 404: no such path /v1/messages/count_tokens", True),
        (Trouble.REFUSED, "HTTP 405: method not allowed", True),
        (Trouble.ABSENT, "HTTP 404: model: m", False),
        (Trouble.CLOSED, "HTTP 402: no money", False),
    ],
)
def test_a_server_that_cannot_count_may_still_answer(
    trouble: Trouble, said: str, is_told: bool, tmp_path: Path
) -> None:
    class Uncounted(Api):
        async def count_tokens(self, prompt: str) -> int | None:
            raise ApiError(trouble, said)

    teacher = teacher_of(Uncounted(echo), tmp_path / "a.jsonl")
    if is_told:
        assert "length" in asyncio.run(teacher.estimate(passages(2))).counted_by
    else:
        with pytest.raises(TeacherError, match=said):
            asyncio.run(teacher.estimate(passages(2)))
    asyncio.run(teacher.close())


@pytest.mark.parametrize("trouble", [Trouble.CLOSED, Trouble.ABSENT])
def test_a_question_about_no_such_model_ends_the_run(trouble: Trouble, tmp_path: Path) -> None:
    api = Api(lambda p, n: ApiError(trouble, "HTTP 404"))
    with pytest.raises(TeacherError, match="cannot be asked: HTTP 404"):
        ask(["a"], api, tmp_path / "a.jsonl")
    assert api.asked == ["a"]


def test_rewording_is_estimated_too(tmp_path: Path) -> None:
    settings = TeacherSettings(provider="openai", model="m", input_price=1.0, output_price=4.0)
    api = Api(echo)
    teacher = teacher_of(api, tmp_path / "a.jsonl", settings)
    estimate = asyncio.run(teacher.estimate_rewording(1000))
    assert estimate.num_to_ask == 1000 and not estimate.is_free and api.asked == []
    # The question itself and an explanation of 600 characters.
    assert 200_000 < estimate.input_tokens < 400_000
    assert estimate.output_tokens == 150_000
    asyncio.run(teacher.close())


def test_judging_is_estimated_too(tmp_path: Path) -> None:
    settings = TeacherSettings(provider="openai", model="m", input_price=1.0, output_price=4.0)
    teacher = teacher_of(Api(echo), tmp_path / "a.jsonl", settings)
    estimate = asyncio.run(teacher.estimate_judging(passages(3), 1000))
    assert estimate.num_to_ask == 1000
    # The question itself, a short passage, and an explanation of 600 characters.
    assert 300_000 < estimate.input_tokens < 600_000
    assert estimate.output_tokens == 12_000
    assert estimate.cost == pytest.approx(estimate.input_tokens * 1e-6 + 12_000 * 4e-6)
    asyncio.run(teacher.close())
