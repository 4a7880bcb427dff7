"""`gloss capture`: what it reads, what fails alone, and what is refused at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gloss_server.commands.capture.results import captured_schema
from support.capture_runs import TEXTS, TURNS
from support.checkpoints import NUM_LAYERS, Pair
from support.command_runs import Command, read_rows, write_rows

BAD_LINES: list[tuple[bytes, str, str]] = [
    (b"nope", "INVALID_ROW", "no JSON"),
    (b"\xff{}", "INVALID_ROW", "no UTF-8"),
    (b'["text"]', "INVALID_ROW", "got a list, expected an object"),
    (b"{}", "INVALID_ROW", "neither text nor messages"),
    (b'{"text": null}', "INVALID_ROW", "neither text nor messages"),
    (b'{"text": 5}', "INVALID_ROW", "text: got a number"),
    (b'{"text": "a", "messages": []}', "INVALID_ROW", "one of both"),
    (b'{"text": "a", "doc_id": 1.5}', "INVALID_ROW", "doc_id: got a number"),
    (b'{"text": "a", "doc_id": "\\ud800"}', "INVALID_ROW", "doc_id: got a lone surrogate"),
    (b'{"messages": "nope"}', "INVALID_ROW", "no JSON"),
    (b'{"messages": {"role": "user"}}', "INVALID_ROW", "messages: got an object"),
    (b'{"messages": ["hi"]}', "INVALID_ROW", "messages[0]: got text"),
    (b'{"messages": [{"role": "user"}]}', "INVALID_ROW", "messages[0].content: got null"),
    (b'{"messages": []}', "EMPTY_TEXT", "without messages"),
    (b'{"text": ""}', "EMPTY_TEXT", "got no token"),
    (b'{"text": "\\ud800"}', "INVALID_TEXT", "lone surrogate"),
    (json.dumps({"text": "river " * 600}).encode(), "TEXT_TOO_LONG", "at most 512"),
    (b'{"text": "x", "doc_id": "short"}', "POSITION_OUT_OF_RANGE", "the text has 1 tokens"),
    (b"[" * 100_000, "INVALID_ROW", "no JSON"),
]


def test_bad_rows_fail_alone(capture: Command, tmp_path: Path) -> None:
    good = json.dumps({"text": TEXTS[0]}).encode()
    lines = [good, *(line for line, _, _ in BAD_LINES), good]
    file = tmp_path / "in.jsonl"
    # Blank lines are no rows, whatever loads the file.
    file.write_bytes(b"\xef\xbb\xbf" + b"\n \n".join(lines) + b"\n\n")
    out = tmp_path / "out.parquet"
    ended = capture(file, out, "--positions", "0,3")
    assert ended.status == 3
    assert pq.read_table(out)["doc_id"].to_pylist() == ["0"] * 2 + [str(len(lines) - 1)] * 2
    failed = read_rows(tmp_path / "out.parquet.failed.jsonl")
    assert [row["row"] for row in failed] == list(range(1, len(lines) - 1))
    for row, (_, reason, said) in zip(failed, BAD_LINES, strict=True):
        assert row["reason"] == reason and said in row["message"], row
        assert row["doc_id"] == (
            "short" if row["message"].endswith("1 tokens") else str(row["row"])
        )
        assert row["position"] is None
    summary, *shown, last = ended.stderr.splitlines()
    assert f"4 activations of {len(lines)} documents, {len(BAD_LINES)} of them failed" in summary
    assert len(shown) == 5 and shown[0].startswith("row 1: INVALID_ROW: got a line that is no JSON")
    assert last.endswith(f"out.parquet.failed.jsonl names all {len(BAD_LINES)}")
    again = capture(file, out, "--positions", "0,3")
    assert again.status == 3 and "finished already" in again.stderr
    assert again.stderr.splitlines()[1:] == [*shown, last]


def test_nothing_but_bad_rows(capture: Command, tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", [{}, {}]), tmp_path / "out.parquet"
    assert capture(file, out).status == 3
    table = pq.read_table(out)
    assert len(table) == 0 and table.schema.equals(captured_schema(72))


def test_a_chat_that_the_template_refuses(
    capture: Command, small_target: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    target = copy_of(small_target)
    template = target / "chat_template.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        + template.read_text()
    )
    system = [{"role": "system", "content": "Be brief."}]
    file = write_rows(tmp_path / "in.jsonl", [{"messages": system}, {"messages": TURNS}])
    ended = capture(file, tmp_path / "out.parquet", target=target)
    assert ended.status == 3 and "row 0: INVALID_CHAT" in ended.stderr
    assert "no system turn" in ended.stderr
    assert set(pq.read_table(tmp_path / "out.parquet")["doc_id"].to_pylist()) == {"1"}


@pytest.mark.parametrize("as_json", [False, True])
def test_parquet_input(capture: Command, tmp_path: Path, as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"text": TEXTS[index % 3], "messages": None, "doc_id": 1000 + index} for index in range(600)
    ]
    for index in (3, 599):
        rows[index] |= {"text": None, "messages": TURNS}
    rows[300] |= {"text": None}
    rows[301] |= {"doc_id": None}
    lines = write_rows(tmp_path / "in.jsonl", rows)
    assert capture(lines, tmp_path / "a.parquet", "--positions", "last").status == 3
    if as_json:
        for row in rows:
            row["messages"] = row["messages"] and json.dumps(row["messages"])
    table = pa.Table.from_pylist([row | {"label": "unused"} for row in rows])
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=256)
    ended = capture(tmp_path / "in.parquet", tmp_path / "b.parquet", "--positions", "last")
    assert ended.status == 3 and "row 300 (1300): INVALID_ROW" in ended.stderr
    assert (tmp_path / "b.parquet").read_bytes() == (tmp_path / "a.parquet").read_bytes()
    doc_ids = pq.read_table(tmp_path / "b.parquet")["doc_id"].to_pylist()
    assert doc_ids[:2] == ["1000", "1001"] and doc_ids[300] == "301"


def test_bytes_that_are_no_text_in_parquet(capture: Command, tmp_path: Path) -> None:
    raw = pa.array([b"river", b"\xff\xfe", b"flour"]).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "in.parquet")
    ended = capture(tmp_path / "in.parquet", tmp_path / "out.parquet", "--positions", "last")
    assert ended.status == 3 and "row 1: INVALID_ROW: got bytes that are no UTF-8" in ended.stderr
    assert pq.read_table(tmp_path / "out.parquet")["doc_id"].to_pylist() == ["0", "2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", NUM_LAYERS], "num_hidden_layers: got 6, expected 7 or more"),
        (["--layer", -1], "--layer"),
        (["--positions", "some"], "positions: got 'some', expected all, last"),
        (["--positions", "::0"], "positions: got a step of 0"),
        (["--output", "out.jsonl"], "got suffix '.jsonl', expected .parquet"),
        (["--output", "none/out.parquet"], "is no directory"),
        (["--input", "none.jsonl"], "got no such file"),
        (["--input", "in.txt"], "got suffix '.txt'"),
        (["--input", "empty.jsonl"], "got no rows"),
        (["--input", "blank.jsonl"], "got no rows"),
        (["--input", "empty.parquet"], "got no rows"),
        (["--input", "torn.parquet"], "got no readable parquet file"),
        (["--input", "other.parquet"], "got columns a, expected one named text or messages"),
        (["--input", "."], "got no such file"),
        (["--target", "none"], "config.json"),
        (["--device", "tpu"], "device: got 'tpu'"),
        (["--dtype", "int8"], "dtype: got 'int8'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    capture: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.jsonl", [{"text": "x"}])
    for name, content in {"in.txt": b"x", "empty.jsonl": b"", "blank.jsonl": b"\n \n"}.items():
        (tmp_path / name).write_bytes(content)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "empty.parquet")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "other.parquet").read_bytes()[:-9])
    before = sorted(tmp_path.iterdir())
    ended = capture(tmp_path / "in.jsonl", "out.parquet", *arguments)
    assert ended.status == (1 if "no directory" in said else 2) and said in ended.error
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_needs_its_layer(gloss: Command, small_target: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "in.jsonl", [{"text": "x"}])
    ended = gloss(
        *("capture", "--target", small_target, "--input", file),
        *("--output", tmp_path / "out.parquet"),
    )
    assert ended.status == 2 and "--target without --layer" in ended.error


@pytest.mark.parametrize("role", ["av", "ar"])
def test_a_model_trained_further_is_no_target(
    capture: Command, small_pair: Pair, tmp_path: Path, role: str
) -> None:
    """Its activations are others, though all of its shapes fit."""
    file = write_rows(tmp_path / "in.jsonl", [{"text": "x"}])
    ended = capture(file, tmp_path / "out.parquet", target=getattr(small_pair, role))
    assert ended.status == 2 and f"{role}: role: got an {role.upper()}" in ended.error
    assert "expected a plain model" in ended.error and "captured from" in ended.error
