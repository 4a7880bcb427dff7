"""`gloss-train data` as processes: killed, out of disk, without a yes; nothing is paid twice."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gloss_training.cli_confirm import confirmer
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
from support.training_process import Ended, gloss_train, start_gloss_train

TARGET = Path(__file__).parents[2] / "server" / "gloss_server" / "embedded" / "target"
NUM_DOCUMENTS = 40
CONFIG = """
device = "cpu"
[target]
path = "{target}"
layer_index = 2
[prompt]
injection_char = "㈎"
av_template = "One state stands here as a vector. Say what: <concept>{{injection_char}}</concept>"
ar_template = "What the text has told so far: {{explanation}} The vector:"
[data]
documents = "{documents}"
min_position = 4
positions_per_document = 3
documents_per_part = 10
shares = {{ av = 1, ar = 1, rl = 1, heldout = 1 }}
[teacher]
provider = "openai"
model = "test-model"
base_url = "{url}"
concurrency = 4
backoff_s = 0.01
input_price = 1.0
output_price = 5.0
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TeacherServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with teacher_server(lambda asked: completion(GOOD)) as server:
        yield server


@pytest.fixture
def config(server: TeacherServer, tmp_path: Path) -> Path:
    documents = tmp_path / "texts.jsonl"
    lines = [
        {"text": f"Story {i}. Ben is a baker. He has a red kite. It is a rainy day.", "doc_id": i}
        for i in range(NUM_DOCUMENTS)
    ]
    documents.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(target=TARGET, documents=documents, url=server.openai_url))
    return path


def data(config: Path, *more: str, max_file_bytes: int | None = None) -> Ended:
    root = config.parent
    arguments = ["data", config, "--output", root / "run", *more]
    return gloss_train(arguments, root / "log", max_file_bytes=max_file_bytes)


def answers(config: Path) -> list[dict[str, object]]:
    path = config.parent / "run" / "data" / "answers.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_become_rows(config: Path, server: TeacherServer) -> None:
    ended = data(config, "--yes")
    assert ended.status == 0, ended.output
    assert "texts.jsonl, row 40: INVALID_ROW: got text that is no JSON" in ended.output
    assert "questions to openai test-model" in ended.output and "USD" in ended.output
    assert KEY not in ended.output
    folder = config.parent / "run" / "data"
    tables = {s: pq.read_table(folder / f"{s}.parquet") for s in ("av", "ar", "rl", "heldout")}
    assert sum(map(len, tables.values())) == 3 * NUM_DOCUMENTS
    # Every story begins with its own number, so no two questions are equal; rl has none.
    assert len(server.asked) == 3 * NUM_DOCUMENTS - len(tables["rl"])
    text = tables["av"].slice(0, 1).to_pylist()[0]
    assert text["response"].startswith("<explanation> The story follows a baker")
    record = json.loads((config.parent / "run" / "stages" / "data.json").read_text())
    assert record["num_invalid_row"] == 1
    assert not any(KEY in path.read_text() for path in folder.parent.rglob("*.json*"))


def test_a_kill_at_any_moment_loses_what_was_in_flight_at_most(
    config: Path, server: TeacherServer
) -> None:
    reached, seen = threading.Event(), 30

    def answer(asked: Asked) -> Served:
        if asked.number >= seen:
            reached.set()
            server.stopping.wait(30)
        return completion(GOOD)

    server.answer = answer
    root = config.parent
    process = start_gloss_train(["data", config, "--output", root / "run", "--yes"], root / "log")
    assert reached.wait(60), (root / "log").read_text()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = len(answers(config))
    in_flight = len(server.asked) - kept
    assert seen - 4 <= kept <= seen and 0 < in_flight <= 4
    first = [asked.prompt for asked in server.asked]
    clock = root / "run" / "stages" / "data.clock.json"
    assert json.loads(clock.read_text())["seconds"] >= 0
    clock.write_text('{"seconds": 9000}')
    server.answer = lambda asked: completion(GOOD)
    ended = data(config, "--yes")
    assert ended.status == 0, ended.output
    assert f"({kept} more are the same as others, or answered already)" in ended.output
    record = json.loads((root / "run" / "stages" / "data.json").read_text())
    assert 9000 < record["seconds"] < 9600
    counts = Counter(asked.prompt for asked in server.asked)
    twice = [prompt for prompt, count in counts.items() if count > 1]
    assert len(twice) == in_flight and set(twice) <= set(first)
    assert max(counts.values()) == 2


def test_an_interrupt_ends_the_run_in_a_word_and_keeps_what_was_answered(
    config: Path, server: TeacherServer
) -> None:
    reached = threading.Event()

    def answer(asked: Asked) -> Served:
        if asked.number >= 10:
            reached.set()
            server.stopping.wait(30)
        return completion(GOOD)

    server.answer = answer
    root = config.parent
    process = start_gloss_train(["data", config, "--output", root / "run", "--yes"], root / "log")
    assert reached.wait(60), (root / "log").read_text()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    said = (root / "log").read_text()
    assert process.exitcode == 130, said
    assert "Traceback" not in said
    assert "stopped; give the same command with --resume to go on" in said
    assert 6 <= len(answers(config)) <= 10


def test_a_full_disk_says_so_and_loses_nothing(config: Path, server: TeacherServer) -> None:
    ended = data(config, "--yes", max_file_bytes=12_000)
    assert ended.status == 1, ended.output
    assert "could not be written: the file is larger than" in ended.output
    assert "Traceback" not in ended.output
    folder = config.parent / "run" / "data"
    kept = {path.name: path.read_bytes() for path in (folder / "captured").glob("*.parquet")}
    before = answers(config)
    assert len(server.asked) - 4 <= len(before) <= len(server.asked)
    ended = data(config, "--yes")
    assert ended.status == 0, ended.output
    assert answers(config)[: len(before)] == before
    for name, content in kept.items():
        assert (folder / "captured" / name).read_bytes() == content


def test_nobody_is_asked_without_a_yes(
    config: Path, server: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = data(config)
    assert ended.status == 2
    assert "got no terminal, expected one, or --yes" in ended.output
    assert "got no key" not in ended.output
    monkeypatch.delenv("OPENAI_API_KEY")
    ended = data(config, "--dry-run")
    assert ended.status == 0, ended.output
    assert "USD" in ended.output and "at most" in ended.output
    assert "before anybody is asked: teacher openai test-model: got no key" in ended.output
    assert server.asked == []
    assert not (config.parent / "run" / "data" / "captured").exists()


def test_no_key_is_said_before_anything_is_read(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ended = data(config, "--yes")
    assert ended.status == 2
    assert "got no key in the environment variable OPENAI_API_KEY" in ended.output


def test_a_teacher_that_closes_its_door_ends_the_run(config: Path, server: TeacherServer) -> None:
    def answer(asked: Asked) -> Served:
        quota = completion_error(429, "insufficient_quota", "You exceeded your current quota")
        return completion(GOOD) if asked.number < 20 else quota

    server.answer = answer
    ended = data(config, "--yes")
    assert ended.status == 1
    assert "cannot be asked: HTTP 429" in ended.output
    assert len(answers(config)) == 20
    assert len(server.asked) <= 24


def test_a_teacher_of_garbage_ends_the_run(config: Path, server: TeacherServer) -> None:
    server.answer = lambda asked: completion('{"features": ["a", "b"]}')
    ended = data(config, "--yes")
    assert ended.status == 1
    assert "answers of no use among 40 (40 no_tags)" in ended.output
    assert len(server.asked) < 50


def test_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from gloss_training.teachers.teacher import Estimate

    estimate = Estimate(teacher="x", num_questions=5, cost=None, most_cost=None)
    said: list[str] = []
    monkeypatch.setattr("sys.stdin", type("Tty", (), {"isatty": staticmethod(lambda: True)})())
    monkeypatch.setattr("typer.confirm", lambda text, default, err: said.append(text) or False)
    assert not confirmer(Console(quiet=True))(estimate)
    assert said == ["Ask the teacher?"]
    assert confirmer(Console(quiet=True), is_confirmed=True)(estimate)
    assert confirmer(Console(quiet=True))(Estimate(teacher="x", num_questions=5))
    assert said == ["Ask the teacher?"]
