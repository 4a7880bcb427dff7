"""Documents in: every form, every fault by its place; ids, splits and positions that stay put."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gloss_training.documents.document import Document
from gloss_training.documents.plan import plan_documents
from gloss_training.documents.positions import choose_positions, encode_document, special_ids
from gloss_training.documents.reading import Failure, read_documents
from gloss_training.documents.settings import DataSettings
from gloss_training.documents.splits import SPLITS, SplitShares, Splitter
from gloss_training.errors import DocumentError
from gloss_training.world.settings import WorldSettings
from gloss_training.world.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer(WorldSettings(), 0)
CHAT = [{"role": "user", "content": "Who is Ben?"}, {"role": "assistant", "content": "A baker."}]


def write_lines(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


def failures(path: Path) -> list[str]:
    return [str(row) for row in read_documents(path) if isinstance(row, Failure)]


def test_lines_of_text_and_of_chats(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "texts.jsonl",
        [
            b'\xef\xbb\xbf{"text": "Ben is a baker.", "doc_id": 7, "url": "x"}',
            b"",
            json.dumps({"messages": CHAT, "text": None}).encode(),
        ],
    )
    first, second = read_documents(path)
    assert first == Document(doc_id="7", text="Ben is a baker.")
    assert isinstance(second, Document)
    assert second.messages == (("user", "Who is Ben?"), ("assistant", "A baker."))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "got text that is no JSON, expected an object"),
        (b"\xff\xfe", "got bytes that are no UTF-8"),
        (b"[1]", "got a list, expected an object with text or messages"),
        (b"{}", "got neither of text and messages, expected one"),
        (b'{"text": "a", "messages": []}', "got both of text and messages"),
        (b'{"text": 3}', "text: got a number, expected text"),
        (b'{"text": "  \\n"}', "got an empty text"),
        (b'{"messages": "x"}', "messages: got text that is no JSON"),
        (b'{"messages": {"role": "user"}}', "messages: got an object, expected a list"),
        (b'{"messages": [{"role": "user"}]}', "messages[0]: expected role and content"),
        (b'{"messages": []}', "got an empty text"),
        (b'{"text": "a", "doc_id": true}', "doc_id: got true or false"),
        (b'{"text": "a", "doc_id": "\\ud800"}', "doc_id: got a lone surrogate"),
    ],
)
def test_a_bad_line_fails_alone_with_its_place(tmp_path: Path, line: bytes, said: str) -> None:
    path = write_lines(tmp_path / "texts.jsonl", [b'{"text": "good"}', line, b'{"text": "too"}'])
    (failure,) = failures(path)
    assert failure.startswith("texts.jsonl, row 1: INVALID_ROW: ")
    assert said in failure
    assert len([row for row in read_documents(path) if isinstance(row, Document)]) == 2


def test_parquet_of_texts_and_of_chats(tmp_path: Path) -> None:
    table = pa.table({"text": ["a b", None], "messages": [None, CHAT], "doc_id": ["x", None]})
    pq.write_table(table, tmp_path / "texts.parquet")
    first, second = read_documents(tmp_path / "texts.parquet")
    assert isinstance(first, Document) and isinstance(second, Document)
    assert (first.doc_id, first.text) == ("x", "a b")
    assert second.messages is not None and second.messages[1] == ("assistant", "A baker.")


def test_a_directory_gives_all_its_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "story.txt").write_text("Ben\nis a baker.", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text('{"text": "Ada"}\n')
    (tmp_path / "notes.md").write_text("no document")
    (tmp_path / "empty.txt").write_text(" ")
    documents = [row for row in read_documents(tmp_path) if isinstance(row, Document)]
    assert [document.text for document in documents] == ["Ada", "Ben\nis a baker."]
    assert documents[1].doc_id == "b/story.txt"
    assert failures(tmp_path) == ["empty.txt: INVALID_ROW: got an empty text, expected words"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("texts.csv", b"a", "suffix '.csv'"),
        ("texts.parquet", b"PAR1 torn", "expected a parquet file"),
        (None, b"", "no such file or directory"),
    ],
)
def test_a_file_that_is_none_is_refused(
    tmp_path: Path, name: str | None, content: bytes, said: str
) -> None:
    path = tmp_path / (name or "missing")
    if name:
        path.write_bytes(content)
    with pytest.raises(DocumentError, match=said):
        list(read_documents(path))


def test_columns_without_text_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "texts.parquet")
    with pytest.raises(DocumentError, match="columns body, expected one named text or messages"):
        list(read_documents(tmp_path / "texts.parquet"))


def test_a_name_of_any_bytes_is_told_as_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.txt")).write_text("Ben.")
    (tmp_path / os.fsdecode(b"b\xff.jsonl")).write_text("{")
    document, failure = read_documents(tmp_path)
    assert isinstance(document, Document) and document.doc_id == "a\ufffd.txt"
    assert str(failure).startswith("b\ufffd.jsonl, row 0: ")


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="a directory without such files"):
        list(read_documents(tmp_path))


def test_shares_are_met_and_adding_documents_moves_none() -> None:
    shares = SplitShares(av=1, ar=1, rl=2, heldout=0)
    few, many = Splitter(shares), Splitter(shares)
    documents = [Document(doc_id=f"d{i}", text=f"text {i}") for i in range(4000)]
    first = [few.place(document) for document in documents[::2]]
    placed = [many.place(document) for document in documents]
    assert placed[::2] == first
    counts = {split: placed.count(split) for split in SPLITS}
    # Standard error of a share of a quarter of 4000: 27.
    assert counts["heldout"] == 0
    assert abs(counts["av"] - 1000) < 110 and abs(counts["rl"] - 2000) < 130


def test_equal_texts_go_to_one_split_whatever_their_ids() -> None:
    splitter = Splitter(SplitShares())
    for index in range(200):
        text = f"Ben number {index} is a baker."
        first = splitter.place(Document(doc_id=f"a{index}", text=text))
        again = Document(doc_id=f"b{index}", text=f"  BEN number\n{index} is a baker. ")
        assert splitter.place(again) == first
        assert splitter.place(Document(doc_id=f"b{index}", text="another")) in (first, None)


def test_a_document_of_two_splits_is_left_out() -> None:
    splitter = Splitter(SplitShares())
    ids = [f"d{i}" for i in range(50)]
    placed = {i: splitter.place(Document(doc_id=i, text=f"text of {i}")) for i in ids}
    one = next(i for i in ids if placed[i] == "av")
    other = next(i for i in ids if placed[i] == "rl")
    assert splitter.place(Document(doc_id=one, text=f"text of {other}")) is None
    assert splitter.place(Document(doc_id=one, text="new")) == "av"


def test_shares_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="0 for every split"):
        SplitShares(av=0, ar=0, rl=0, heldout=0)


def test_positions_are_behind_the_first_and_on_no_special_token() -> None:
    special = special_ids(TOKENIZER)
    assert TOKENIZER.unk_token_id not in special
    assert {TOKENIZER.eos_token_id, TOKENIZER.pad_token_id} <= special
    text = "Ben is a baker . <|end|> He has a [UNK] kite ."
    encoded = encode_document(TOKENIZER, Document(doc_id="c", text=text), 99)
    chosen = choose_positions(
        encoded, special=special, min_position=3, count=99, seed=0, doc_id="c"
    )
    assert encoded.token_ids[5] == TOKENIZER.eos_token_id
    assert chosen == (3, 4, 6, 7, 8, 9, 10, 11)


def test_positions_hang_on_seed_and_document_alone() -> None:
    encoded = encode_document(TOKENIZER, Document(doc_id="a", text="Ben smiles . " * 30), 99)

    def choose(seed: int, doc_id: str) -> tuple[int, ...]:
        return choose_positions(
            encoded, special=frozenset(), min_position=10, count=6, seed=seed, doc_id=doc_id
        )

    assert choose(0, "a") == choose(0, "a")
    assert len({choose(0, "a"), choose(1, "a"), choose(0, "b")}) == 3
    assert all(len(set(choose(0, str(i)))) == 6 for i in range(50))


def test_the_text_before_a_position_is_the_text_itself() -> None:
    text = "Ben   is a baker. [UNK] He\nhas a kite!"
    encoded = encode_document(TOKENIZER, Document(doc_id="a", text=text), 99)
    assert encoded.before(3, 99) == "Ben   is a baker"
    assert encoded.before(5, 99) == "Ben   is a baker. [UNK]"
    assert encoded.token_ids[5] == TOKENIZER.unk_token_id
    assert encoded.before(len(encoded.token_ids) - 1, 5) == "kite!"
    assert len(encode_document(TOKENIZER, Document(doc_id="a", text=text), 4).token_ids) == 4


def test_what_cannot_be_planned_is_counted_by_reason() -> None:
    settings = DataSettings(documents="x", min_position=4, positions_per_document=2)
    long = "Ben is a baker. He has a kite. "
    given = [
        Document(doc_id="a", text=long),
        Document(doc_id="a", text=long),
        Document(doc_id="b", text="Ben is."),
        Document(doc_id="c", text=long + "\ud800"),
        Failure(place="x, row 9", reason="INVALID_ROW", message="no"),
        Document(doc_id="d", messages=(("robot", long),)),
    ]
    plan = plan_documents(given, TOKENIZER, settings, 0)
    assert [planned.document.doc_id for planned in plan.documents] == ["a"]
    assert plan.figures() == {
        "num_documents": 1,
        **{f"num_{split}_documents": int(plan.documents[0].split == split) for split in SPLITS},
        "num_documents_left_out": 5,
        "num_duplicate": 1,
        "num_invalid_row": 1,
        "num_too_short": 1,
        "num_unencodable": 2,
    }
    assert "only the roles user and assistant" in " ".join(plan.failure_lines())


def test_a_split_with_a_share_has_to_have_documents() -> None:
    settings = DataSettings(documents="x", min_position=4)
    given = [Document(doc_id=f"{i}", text=f"Ben is a baker . He has {i} .") for i in range(60)]
    plan = plan_documents(given, TOKENIZER, settings, 0)
    some = {split: 1.0 for split in SPLITS}
    plan.require_splits(SplitShares(**some))
    kept = [planned for planned in plan.documents if planned.split != "rl"]
    without = replace(plan, documents=tuple(kept))
    without.require_splits(SplitShares(**{**some, "rl": 0.0}))
    said = f"split rl: got none of {len(kept)} documents; data.shares.rl = 1 is 25.00% of them"
    with pytest.raises(DocumentError, match=f"{said}.*or data.shares.rl = 0 for a run without RL"):
        without.require_splits(SplitShares(**some))


def test_a_plan_of_nothing_is_refused() -> None:
    with pytest.raises(DocumentError, match="no document that can be used of 1; the first: .*b"):
        plan_documents(
            [Document(doc_id="b", text="Ben.")], TOKENIZER, DataSettings(documents="x"), 0
        )
