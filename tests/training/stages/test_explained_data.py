"""Documents to files of activations: what rows hold, what a second run repeats, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from gloss_engine.target.reader import TextToRead
from gloss_training.capture.parts import CAPTURED
from gloss_training.capture.readers import Captured, EngineReader, TapReader
from gloss_training.dataset.rows import Rows, read_rows
from gloss_training.dataset.sidecar import check_dataset, sidecar_path
from gloss_training.dataset.statistics import RunningStatistics
from gloss_training.documents.document import Document
from gloss_training.documents.reading import Failure
from gloss_training.documents.settings import DataSettings
from gloss_training.documents.splits import SPLITS, SplitShares
from gloss_training.errors import (
    ConfigError,
    DatasetError,
    Declined,
    DiskError,
    DocumentError,
    TeacherError,
)
from gloss_training.passage import Passage
from gloss_training.scoring import strict_baseline
from gloss_training.settings import PromptSettings
from gloss_training.stages.explained_data import DataStage
from gloss_training.teachers.judging import Judge
from gloss_training.teachers.teacher import KEPT, UNANSWERED, Answer, Estimate
from gloss_training.teachers.world_teacher import WorldTeacher
from gloss_training.world.claims import judge
from gloss_training.world.documents import world_documents
from gloss_training.world.settings import WORLD_PROMPT, WorldSettings
from gloss_training.world.stories import words_of

TARGET = Path(__file__).parents[3] / "server" / "gloss_server" / "embedded" / "target"
LAYER = 2
SETTINGS = DataSettings(
    min_position=8,
    positions_per_document=3,
    shares=SplitShares(av=0.3, ar=0.3, rl=0.2, heldout=0.2),
    documents_per_part=7,
)
WORLD = WorldSettings(unknown_word_rate=0.02)
NUM_STORIES = 40


class CountingReader:
    """A reader that counts the texts it reads, and may spoil rows."""

    def __init__(self, reader: EngineReader) -> None:
        self._reader = reader
        self.tokenizer, self.d_model = reader.tokenizer, reader.d_model
        self.layer_index = reader.layer_index
        self.fingerprint, self.how = reader.fingerprint, reader.how
        self.num_texts = 0
        self.spoil: Callable[[np.ndarray], None] = lambda norms: None

    def read(self, texts: Iterable[TextToRead]) -> Captured:
        texts = list(texts)
        self.num_texts += len(texts)
        captured = self._reader.read(texts)
        norms = captured.norms.copy()
        self.spoil(norms)
        return Captured(activations=captured.activations, norms=norms)


@pytest.fixture(scope="module")
def engine() -> EngineReader:
    return EngineReader(TARGET, LAYER, max_document_tokens=512, device="cpu")


@pytest.fixture
def reader(engine: EngineReader) -> CountingReader:
    return CountingReader(engine)


def yes(estimate: Estimate) -> bool:
    return True


def stories(count: int = NUM_STORIES) -> list[Document]:
    return list(world_documents(WORLD, count, 0))


def run(
    folder: Path, reader: Any, documents: Iterable[Any] | None = None, **more: Any
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "settings": SETTINGS,
        "prompt": WORLD_PROMPT,
        "teacher": WorldTeacher(seed=0, num_ending_words=1),
        "seed": 0,
        "console": Console(quiet=True),
        **more,
    }
    confirm = options.pop("confirm", yes)
    stage = DataStage(reader=reader, folder=folder, **options)
    return stage.run(stories() if documents is None else documents, confirm)


def rows_of(folder: Path) -> dict[str, Rows]:
    return {split: read_rows(folder / f"{split}.parquet") for split in SPLITS}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet*") if path.is_file()}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, engine: EngineReader
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("data")
    return folder, run(folder, engine)


def test_rows_hold_the_activation_of_their_own_words(made: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = made
    model = AutoModelForCausalLM.from_pretrained(TARGET).eval()
    tokenizer = AutoTokenizer.from_pretrained(TARGET)
    by_id = {document.doc_id: document for document in stories()}
    for split, rows in rows_of(folder).items():
        assert len(rows) == figures[f"num_{split}_rows"] > 0
        for index in range(0, len(rows), 5):
            document, position = by_id[rows.doc_ids[index]], rows.positions[index]
            assert document.text is not None and document.facts_at is not None
            words = document.text.split(" ")
            assert rows.texts[index] == " ".join(words[: position + 1])
            assert rows.facts[index] == document.facts_at(len(rows.texts[index]))
            ids = tokenizer.encode(rows.texts[index], return_tensors="pt")
            assert ids.shape[1] == position + 1
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states[LAYER + 1]
            torch.testing.assert_close(rows.activations[index], states[0, -1], rtol=1e-4, atol=1e-4)


def test_the_world_teacher_says_what_is_revealed(made: tuple[Path, dict[str, Any]]) -> None:
    rows = rows_of(made[0])["av"]
    for index, text in enumerate(rows.explanations):
        verdict = judge(text, rows.facts[index], words_of(rows.texts[index]))
        assert verdict.num_facts == verdict.num_facts_right == len(rows.facts[index])
        assert verdict.num_unparsed == 0 < verdict.num_endings


def test_files_have_the_released_columns_and_a_sidecar(made: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = made
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        table = pq.read_table(path)
        assert table.column_names[:6] == [
            *("prompt", "response", "activation_vector", "n_raw_tokens"),
            *("activation_layer", "doc_id"),
        ]
        assert table.schema.field("activation_vector").type == pa.list_(pa.float32(), 128)
        assert table["n_raw_tokens"].to_pylist() == [p + 1 for p in table["position"].to_pylist()]
        assert set(table["activation_layer"].to_pylist()) == {LAYER}
        first = table.slice(0, 1).to_pylist()[0]
        if split == "av":
            wrapped = f"<explanation> {first['explanation']} </explanation>"
            assert first["response"] == wrapped and "㈎" in first["prompt"]
        else:
            assert first["response"] is None
            assert (split == "ar") == (str(first["explanation"]) in first["prompt"])
        assert (first["explanation"] is None) == (split == "rl")
        meta = yaml.safe_load(sidecar_path(path).read_text("utf-8"))
        assert (meta["schema_version"], meta["kind"]) == (2, "nla_dataset")
        assert meta["extraction"] == {
            "d_model": 128,
            "layer_index": LAYER,
            "min_position": 8,
            **{name: figures[name] for name in ("injection_scale", "fve_baseline", "norm_median")},
        }
        assert meta["tokens"] == {
            "injection_char": "㈎",
            "injection_token_id": 9,
            "injection_left_neighbor_id": 5,
            "injection_right_neighbor_id": 6,
        }
        assert meta["dataset"]["num_rows"] == len(table)
        check_dataset(path, d_model=128, layer_index=LAYER, prompt=WORLD_PROMPT)


def test_no_document_is_in_two_splits(made: tuple[Path, dict[str, Any]]) -> None:
    ids = [set(rows.doc_ids) for rows in rows_of(made[0]).values()]
    assert len(set.union(*ids)) == sum(map(len, ids)) == NUM_STORIES


def test_statistics_are_of_what_is_trained_on(made: tuple[Path, dict[str, Any]]) -> None:
    folder, figures = made
    rows = rows_of(folder)
    training = torch.cat([rows[split].activations for split in ("av", "ar", "rl")])
    assert figures["fve_baseline"] == pytest.approx(strict_baseline(training), abs=1e-9)
    norms = training.double().norm(dim=-1).numpy()
    assert figures["norm_median"] == pytest.approx(float(np.median(norms)), rel=1e-6)
    assert figures["injection_scale"] == pytest.approx(figures["norm_median"])


def test_a_stated_injection_scale_is_taken() -> None:
    running = RunningStatistics()
    running.add(np.eye(4, dtype=np.float32))
    assert running.result(PromptSettings(injection_scale=150.0)).injection_scale == 150.0
    # Four orthogonal rows of norm 2: each mean is 1/2, so the variance is 1 - 1/4.
    assert running.result(PromptSettings()).fve_baseline == pytest.approx(0.75)


def test_equal_input_gives_equal_bytes_and_nothing_is_read_twice(
    made: tuple[Path, dict[str, Any]], reader: CountingReader, tmp_path: Path
) -> None:
    run(tmp_path, reader)
    assert files_of(tmp_path) == files_of(made[0])
    assert reader.num_texts == NUM_STORIES
    parts = sorted((tmp_path / CAPTURED).glob("*.parquet"))
    parts[5].unlink()
    (tmp_path / CAPTURED / f"{parts[0].name}.tmp").write_bytes(b"torn")
    (tmp_path / "av.parquet").unlink()
    run(tmp_path, reader)
    assert reader.num_texts == NUM_STORIES + SETTINGS.documents_per_part
    assert files_of(tmp_path) == files_of(made[0])
    assert sorted((tmp_path / CAPTURED).iterdir()) == parts


def test_documents_that_are_added_move_no_row(
    made: tuple[Path, dict[str, Any]], reader: CountingReader, tmp_path: Path
) -> None:
    run(tmp_path, reader)
    reader.num_texts = 0
    run(tmp_path, reader, stories(NUM_STORIES + 9))
    # The last part, of five documents, is read again with those behind it.
    assert reader.num_texts == 9 + NUM_STORIES % SETTINGS.documents_per_part
    for split, rows in rows_of(tmp_path).items():
        before = read_rows(made[0] / f"{split}.parquet")
        assert rows.doc_ids[: len(before)] == before.doc_ids
        assert rows.explanations[: len(before)] == before.explanations
        torch.testing.assert_close(rows.activations[: len(before)], before.activations)


@pytest.mark.parametrize("name", ["fingerprint", "how"])
def test_another_target_or_type_reads_all_again(
    name: str, reader: CountingReader, tmp_path: Path
) -> None:
    run(tmp_path, reader)
    setattr(reader, name, "another")
    run(tmp_path, reader)
    assert reader.num_texts == 2 * NUM_STORIES


def test_nothing_happens_without_a_yes(reader: CountingReader, tmp_path: Path) -> None:
    seen: list[Estimate] = []

    def no(estimate: Estimate) -> bool:
        seen.append(estimate)
        return False

    with pytest.raises(Declined, match="nobody was asked"):
        run(tmp_path, reader, confirm=no)
    assert reader.num_texts == 0
    assert not list(tmp_path.iterdir())
    assert seen[0].num_questions > 0 and seen[0].is_free


def test_a_marker_that_is_none_is_refused_before_anything_is_read(
    reader: CountingReader, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="prompt.injection_char"):
        run(tmp_path, reader, prompt=PromptSettings(injection_char="§"))
    assert reader.num_texts == 0


def test_activations_without_a_direction_are_left_out(
    reader: CountingReader, tmp_path: Path
) -> None:
    def spoil(norms: np.ndarray) -> None:
        norms[0], norms[1] = np.nan, 0.0

    reader.spoil = spoil
    figures = run(tmp_path, reader)
    num_parts = -(-NUM_STORIES // SETTINGS.documents_per_part)
    assert figures["num_positions_left_out"] == 2 * num_parts
    total = sum(figures[f"num_{split}_rows"] for split in SPLITS)
    assert total == NUM_STORIES * 3 - 2 * num_parts


class ScriptedTeacher(WorldTeacher):
    """Gives every question an outcome by its number."""

    def __init__(self, outcome: Callable[[int], str]) -> None:
        super().__init__(seed=0, num_ending_words=1)
        object.__setattr__(self, "outcome", outcome)

    async def explain(
        self, passages: Iterable[Passage], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        outcomes = [self.outcome(number) for number, _ in enumerate(passages)]  # type: ignore[attr-defined]
        return [Answer(text="It is." if o == KEPT else "", outcome=o) for o in outcomes]


def test_dropped_answers_leave_their_rows_out_of_training(
    reader: CountingReader, tmp_path: Path
) -> None:
    def outcome(number: int) -> str:
        return "truncated" if number % 4 == 0 else KEPT

    figures = run(tmp_path, reader, teacher=ScriptedTeacher(outcome))
    assert figures["num_answers_truncated"] == -(-figures["num_questions"] // 4)
    rows = rows_of(tmp_path)
    assert "" not in rows["av"].explanations + rows["ar"].explanations
    # Held-out rows need none to be scored.
    assert "" in rows["heldout"].explanations
    lost = figures["num_answers_truncated"] - rows["heldout"].explanations.count("")
    assert len(rows["av"]) + len(rows["ar"]) + len(rows["heldout"]) == (
        figures["num_questions"] - lost
    )


def test_too_many_unanswered_questions_end_the_stage(
    reader: CountingReader, tmp_path: Path
) -> None:
    teacher = ScriptedTeacher(lambda number: UNANSWERED if number % 10 == 0 else KEPT)
    with pytest.raises(TeacherError, match=r"questions have no answer.*only these will be asked"):
        run(tmp_path, reader, teacher=teacher)
    assert list((tmp_path / CAPTURED).glob("*.parquet"))


def test_a_split_whose_answers_are_all_of_no_use_is_refused(
    reader: CountingReader, tmp_path: Path
) -> None:
    teacher = ScriptedTeacher(lambda number: "empty")
    with pytest.raises(DatasetError, match=r"split av: got no rows, of answers \{'empty': \d+\}"):
        run(tmp_path, reader, teacher=teacher)


class PaidTeacher(WorldTeacher):
    """Is never to be asked, nor what it takes."""

    async def estimate(self, passages: Iterable[Passage]) -> Estimate:
        raise AssertionError("there was an estimate")

    async def explain(
        self, passages: Iterable[Passage], on_answer: Callable[[Answer], None]
    ) -> list[Answer]:
        raise AssertionError("the teacher was asked")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_documents_is_refused_before_anything_is_paid(
    split: str, reader: CountingReader, tmp_path: Path
) -> None:
    # So small a share that no story's hash is in it.
    shares = SplitShares(**{**{name: 1.0 for name in SPLITS}, split: 1e-9})
    given = [*stories(), Failure(place="row 3", reason="INVALID_ROW", message="no JSON")]
    said = (
        rf"split {split}: got none of {NUM_STORIES} documents \(1 more are left out\); "
        rf"data.shares.{split} = 1e-09 is 0.00% .*expected one or more. Give more documents, or a "
        rf"larger data.shares.{split}"
    )
    teacher = PaidTeacher(seed=0, num_ending_words=1)
    with pytest.raises(DocumentError, match=said):
        run(tmp_path, reader, given, settings=replace(SETTINGS, shares=shares), teacher=teacher)
    assert reader.num_texts == 0


def test_a_split_without_activations_is_refused_before_the_teacher_is_asked(
    reader: CountingReader, tmp_path: Path
) -> None:
    class Unasked(PaidTeacher):
        async def estimate(self, passages: Iterable[Passage]) -> Estimate:
            return Estimate(teacher="x", num_questions=sum(1 for _ in passages))

    reader.spoil = lambda norms: norms.fill(np.inf)
    with pytest.raises(DatasetError, match=r"split av: got .* not finite at all of its \d+ posit"):
        run(tmp_path, reader, teacher=Unasked(seed=0, num_ending_words=1))


def test_a_full_disk_keeps_the_parts_before(
    reader: CountingReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = Path.open, [9]

    def full(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.suffix == ".tmp":
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        return replace(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match="the disk is full. Parts written before are whole"):
        run(tmp_path, reader)
    monkeypatch.undo()
    assert len(list((tmp_path / CAPTURED).iterdir())) == 9
    reader.num_texts = 0
    run(tmp_path, reader)
    # Two parts of four files each were whole.
    assert reader.num_texts == NUM_STORIES - 2 * SETTINGS.documents_per_part


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"d_model": 64}, r"d_model: got 128, expected 64"),
        ({"layer_index": 1}, r"layer_index: got 2, expected 1"),
        ({"min_position": 50}, r"extraction.min_position: got \d+, expected 50"),
        ({"target_fingerprint": "ab"}, r"target_fingerprint: got '[0-9a-f]{16}', expected 'ab'"),
        ({"prompt": PromptSettings()}, r"prompt_templates.av: got 'One state"),
    ],
)
def test_a_dataset_of_another_model_is_refused(
    made: tuple[Path, dict[str, Any]], expected: dict[str, Any], said: str
) -> None:
    options: dict[str, Any] = {"d_model": 128, "layer_index": LAYER, **expected}
    with pytest.raises(DatasetError, match=said):
        check_dataset(made[0] / "av.parquet", **options)


def test_a_dataset_without_a_sidecar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        check_dataset(tmp_path / "av.parquet", d_model=128, layer_index=LAYER)


@pytest.mark.parametrize("kind", ["missing", "torn", "ragged", "foreign"])
def test_rows_that_are_none_of_ours_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "av.parquet"
    vectors = pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))
    if kind == "torn":
        path.write_bytes(b"PAR1")
    elif kind != "missing":
        names = [
            *("prompt", "response", "n_raw_tokens", "activation_layer", "doc_id", "position"),
            *("explanation", "text", "facts"),
        ]
        columns = {} if kind == "foreign" else dict.fromkeys(names, pa.nulls(2))
        pq.write_table(pa.table({**columns, "activation_vector": vectors}), path)
    with pytest.raises(DatasetError, match=r"got .*, expected .*Remove stages/data.json"):
        read_rows(path)


def test_a_document_longer_than_the_target_can_read_is_refused(engine: EngineReader) -> None:
    assert engine.read([]).activations.shape == (0, engine.d_model)
    endless = TextToRead(token_ids=(9,) * 513, positions=(8,))
    with pytest.raises(ConfigError, match=r"max_document_tokens: got .* 513 tokens.* most 512,"):
        engine.read([endless])


def test_both_readers_read_the_same_activations(engine: EngineReader) -> None:
    tapped = TapReader(TARGET, LAYER, device=torch.device("cpu"), dtype=torch.float32)
    generator = np.random.default_rng(0)
    texts = [
        TextToRead(
            token_ids=tuple(generator.integers(10, 200, size=length).tolist()),
            positions=tuple(sorted({0, length // 2, length - 1})),
        )
        for length in (*range(1, 20), 90)
    ]
    one, other = engine.read(texts), tapped.read(texts)
    np.testing.assert_allclose(one.activations, other.activations, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.norms, other.norms, rtol=1e-5)
    assert (tapped.d_model, tapped.layer_index) == (engine.d_model, engine.layer_index)
    assert tapped.fingerprint == engine.fingerprint
    assert (tapped.how, engine.how) == ("transformers, cpu, float32", "engine, cpu, float32")


def test_the_grammar_judges_truth() -> None:
    passage = Passage(
        doc_id="s", position=4, text="Ben is a baker .", facts={"hero": "Ben", "job": "baker"}
    )
    teacher = WorldTeacher(seed=0, num_ending_words=1)
    said = {
        "The hero is Ben, a baker.": 1.0,
        "The hero is Ben, a sailor.": 0.5,
        "The hero is Ada.": 0.0,
        "The hero is Ben. Kite kite.": 0.5,
        "": 0.0,
    }
    with Judge(teacher) as one:
        assert one.scores([passage] * len(said), list(said)) == list(said.values())
        assert one.estimate([passage], 500).is_free


def test_stories_are_the_same_however_many_are_asked_for() -> None:
    few, many = stories(5), stories(9)
    assert [d.text for d in many[:5]] == [d.text for d in few]
    assert len({d.text for d in many}) == 9
    assert json.dumps(many[3].facts_at(99) if many[3].facts_at else None)
