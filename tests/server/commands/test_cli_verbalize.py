"""`gloss verbalize --local`: its rows, its refusals, its exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gloss_engine import EngineConfig, SamplingParams, VerbalizeRequest, load_engine
from support.checkpoints import LAYER_INDEX, Pair
from support.command_runs import Command, in_order, read_rows, same
from support.edits import edit_sidecar

FIELDS = [
    *("index", "sample", "seed", "explanation", "raw_text", "token_ids", "finish_reason"),
    *("logprob", "cosine", "mse", "fve", "flags", "error"),
]
BAD_ROWS = {5: "ZERO_VECTOR", 35: "NON_FINITE_VECTOR"}


def test_rows_are_those_of_the_engine_with_the_file_row_as_key(
    verbalize: Command, npy: Path, activations: np.ndarray, small_pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ended = verbalize(npy, out, "--samples", 2, "--temperature", 0.9)
    rows = in_order(read_rows(out))
    assert ended.status == 3
    assert [(row["index"], row["sample"]) for row in rows] == [
        (index, sample) for index in range(40) for sample in range(2)
    ]
    assert all(list(row) == FIELDS for row in rows)
    engine = load_engine(small_pair.av, small_pair.ar, EngineConfig(num_slots=7))
    sampling = SamplingParams(seed=7, temperature=0.9, max_new_tokens=6)
    later = (33, 12)
    direct = engine.verbalize(
        VerbalizeRequest(
            activations=activations[list(later)],
            num_samples=2,
            sampling=sampling,
            item_keys=later,
        )
    )
    for explanation in direct:
        row = rows[2 * later[explanation.index] + explanation.sample]
        assert row["token_ids"] == list(explanation.token_ids)
        assert row["explanation"] == explanation.explanation
        assert row["raw_text"] == explanation.raw_text
        assert row["finish_reason"] == explanation.finish_reason
        assert row["flags"] == list(explanation.flags)
        assert row["seed"] == 7 and row["error"] is None and row["fve"] is None
        assert row["logprob"] == pytest.approx(explanation.logprob, abs=1e-3)
        assert row["cosine"] == pytest.approx(explanation.cosine, abs=1e-4)


def test_quantized_weights_are_the_engines(
    verbalize: Command, npy: Path, activations: np.ndarray, small_pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    verbalize(npy, out, "--quantization", "fp8", "--temperature", 0, "--no-score")
    sampling = SamplingParams(temperature=0.0, max_new_tokens=6)
    request = VerbalizeRequest(activations=activations[6:30], sampling=sampling)
    got = [row["token_ids"] for row in in_order(read_rows(out))[6:30]]
    same = {}
    for quantization in ("none", "fp8"):
        engine = load_engine(small_pair.av, None, EngineConfig(quantization=quantization))
        expected = [list(each.token_ids) for each in engine.verbalize(request)]
        same[quantization] = sum(a == b for a, b in zip(got, expected, strict=True))
    # In another batch a value at the edge of a step may fall to the other side.
    assert same["fp8"] >= 20 > same["none"], same


def test_batch_invariance_is_the_engines(
    verbalize: Command, npy: Path, activations: np.ndarray, small_pair: Pair, tmp_path: Path
) -> None:
    """Each row is to the last bit what an engine says that has nothing else to run."""
    out = tmp_path / "out.jsonl"
    verbalize(npy, out, "--batch-invariant", "--no-score", seed=7)
    rows = in_order(read_rows(out))
    engine = load_engine(small_pair.av, None, EngineConfig(batch_invariant=True))
    sampling = SamplingParams(seed=7, max_new_tokens=6)
    for row in (6, 12, 29):
        (alone,) = engine.verbalize(
            VerbalizeRequest(activations=activations[[row]], sampling=sampling, item_keys=(row,))
        )
        assert rows[row]["token_ids"] == list(alone.token_ids)
        assert rows[row]["logprob"] == alone.logprob


def test_the_run_goes_on_past_bad_rows_and_says_where_they_are(
    verbalize: Command, npy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    ended = verbalize(npy, out)
    rows = in_order(read_rows(out))
    assert ended.status == 3 and "2 of them failed" in ended.stderr
    failed = {row["index"]: row["error"] for row in rows if row["error"] is not None}
    assert {index: error["reason"] for index, error in failed.items()} == BAD_ROWS
    for index, error in failed.items():
        assert list(error) == ["code", "reason", "message"]
        assert error["code"] == "INVALID_ARGUMENT"
        # Row 35 is the fourth of its chunk: the message must name the row of the file.
        assert error["message"].startswith(f"row {index}: ")
        row = rows[index]
        assert row["finish_reason"] == "error" and row["token_ids"] == []
        assert row["explanation"] == "" and row["cosine"] is None
    assert all(len(row["token_ids"]) >= 1 for row in rows if row["error"] is None)


def test_nothing_but_a_summary_is_said_where_nobody_watches(
    verbalize: Command, activations: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "good.npy", activations[:5])
    ended = verbalize(tmp_path / "good.npy", tmp_path / "out.jsonl")
    assert ended.status == 0 and ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "5 explanations of 5 activations" in line and "seed 7" in line


def test_parquet_output_has_the_same_rows_in_order(
    verbalize: Command, npy: Path, tmp_path: Path
) -> None:
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.parquet"
    assert verbalize(npy, lines, "--samples", 2).status == 3
    assert verbalize(npy, table, "--samples", 2).status == 3
    read = pq.read_table(table)
    assert read.schema.names == FIELDS
    assert read.schema.field("token_ids").type == pa.list_(pa.int32())
    assert read.schema.field("flags").type == pa.list_(pa.string())
    assert read.schema.field("seed").type == pa.uint64()
    assert pa.types.is_struct(read.schema.field("error").type)
    assert read.to_pylist() == in_order(read_rows(lines))
    assert not (tmp_path / "out.parquet.parts").exists()


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", ">f4"])
def test_every_float_type_gives_the_same_rows(
    verbalize: Command, activations: np.ndarray, tmp_path: Path, dtype: str
) -> None:
    rows = activations[:6]
    np.save(tmp_path / "plain.npy", rows)
    if dtype == "bfloat16":
        # What numpy makes of ml_dtypes' bfloat16 when it saves it: two bytes without a name.
        other = (rows.view(np.uint32) >> 16).astype(np.uint16).view("V2")
    else:
        other = rows.astype(dtype)
    np.save(tmp_path / "other.npy", np.asfortranarray(other))
    verbalize(tmp_path / "plain.npy", tmp_path / "plain.jsonl")
    verbalize(tmp_path / "other.npy", tmp_path / "other.jsonl")
    assert read_rows(tmp_path / "other.jsonl") == read_rows(tmp_path / "plain.jsonl")


def _save(array: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.save(path, array, allow_pickle=True)


_ONES = np.ones((3, 72), np.float32)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_save(np.ones(72, np.float32)), "array[np.newaxis, :]"),
        (_save(np.ones((2, 3, 72), np.float32)), "got shape [2, 3, 72], expected [n, d_model]"),
        (_save(np.ones((2, 71), np.float32)), "got activations of width 71, expected 72"),
        (_save(np.ones((2, 72), np.int32)), "got int32, expected float16, float32 or float64"),
        (_save(np.ones((2, 72), np.complex64)), "got complex64"),
        (_save(np.array([None, 1], dtype=object)), "pickled objects"),
        (_save(np.ones((0, 72), np.float32)), "at least one row"),
        (lambda path: path.write_bytes(b""), "no readable .npy"),
        (lambda path: path.write_bytes(b"PK\x03\x04 a zip"), "no readable .npy"),
    ],
)
def test_refused_npy(
    verbalize: Command, tmp_path: Path, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "in.npy")
    ended = verbalize(tmp_path / "in.npy", tmp_path / "out.jsonl")
    assert ended.status == 2 and said in ended.error
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out.jsonl.run.json").exists()


def test_a_truncated_npy_is_refused(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.npy"
    cut.write_bytes(npy.read_bytes()[:-1])
    assert "no readable .npy" in verbalize(cut, tmp_path / "out.jsonl").error


def _table(rows: np.ndarray, **columns: Any) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return pa.table({"activation_vector": vectors, **columns})


@pytest.mark.parametrize("kind", ["fixed", "list", "large", "half", "double"])
def test_parquet_input_gives_the_rows_of_npy(
    verbalize: Command, npy: Path, activations: np.ndarray, tmp_path: Path, kind: str
) -> None:
    values = {"half": pa.float16(), "double": pa.float64()}.get(kind, pa.float32())
    types = {"list": pa.list_(values), "large": pa.large_list(values)}
    rows = [row.astype(np.float16) if kind == "half" else row for row in activations]
    column = pa.array(rows, types.get(kind, pa.list_(values, 72)))
    pq.write_table(
        pa.table({"other": ["x"] * 40, "activation_vector": column}),
        tmp_path / "in.parquet",
        row_group_size=13,
    )
    assert verbalize(tmp_path / "in.parquet", tmp_path / "a.jsonl").status == 3
    assert verbalize(npy, tmp_path / "b.jsonl").status == 3
    # A file is read in other pieces, so the AR scores other batches.
    assert same(
        in_order(read_rows(tmp_path / "a.jsonl")), in_order(read_rows(tmp_path / "b.jsonl"))
    )


def test_positions_and_tokens_reach_the_flags(
    verbalize: Command, small_pair: Pair, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    av = copy_of(small_pair.av)
    edit_sidecar(av, lambda meta: meta["extraction"].update(min_position=10))
    special = json.loads((av / "config.json").read_text())["eos_token_id"]
    special = special[0] if isinstance(special, list) else special
    table = _table(_ONES, position=[9, 10, 11], token_id=[20, special, 20])
    pq.write_table(table, tmp_path / "in.parquet")
    assert verbalize(tmp_path / "in.parquet", tmp_path / "out.jsonl", "--av", av).status == 0
    flags = [set(row["flags"]) for row in in_order(read_rows(tmp_path / "out.jsonl"))]
    assert ["early_position" in f for f in flags] == [True, False, False]
    assert ["special_token" in f for f in flags] == [False, True, False]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            pa.table({"activation_vector": pa.array([[1.0] * 72, [1.0] * 72, [1.0] * 71])}),
            "row 2 of activation_vector holds 71 values, expected 72",
        ),
        (
            pa.table({"activation_vector": pa.array([[1.0] * 72, None], pa.list_(pa.float32()))}),
            "row 1 of activation_vector holds null",
        ),
        (pa.table({"vector": [[1.0]]}), "got columns vector, expected one named activation_vector"),
        (pa.table({"activation_vector": [[1, 2]]}), "expected a fixed-size list of float32"),
        (pa.table({"activation_vector": [1.0]}), "expected a fixed-size list of float32"),
        (_table(_ONES[:0]), "got no rows"),
        (_table(_ONES, activation_layer=[3, 3, 4]), "got 3, 4, expected one layer"),
        (_table(_ONES, position=[1, None, 3]), "row 1 of position is null"),
        (_table(_ONES, token_id=["a", "b", "c"]), "column token_id: got string"),
        (_table(_ONES[:, :71].copy()), "got activations of width 71, expected 72"),
    ],
)
def test_refused_parquet(verbalize: Command, tmp_path: Path, table: pa.Table, said: str) -> None:
    pq.write_table(table, tmp_path / "in.parquet")
    ended = verbalize(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert ended.status == 2 and said in ended.error
    assert not (tmp_path / "out.jsonl").exists()


def test_the_first_ragged_row_is_named_across_batches(verbalize: Command, tmp_path: Path) -> None:
    rows = [[1.0] * 4] * 2000
    rows[1500] = rows[1700] = [1.0] * 5
    pq.write_table(pa.table({"activation_vector": rows}), tmp_path / "in.parquet")
    assert "row 1500 " in verbalize(tmp_path / "in.parquet", tmp_path / "out.jsonl").error


def test_garbage_is_no_parquet(verbalize: Command, tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and nothing else")
    assert "no readable parquet" in verbalize(tmp_path / "in.parquet", tmp_path / "o.jsonl").error


def test_a_stated_layer_is_checked(verbalize: Command, tmp_path: Path) -> None:
    file = tmp_path / "in.parquet"
    pq.write_table(_table(_ONES, activation_layer=[LAYER_INDEX + 1] * 3), file)
    ended = verbalize(file, tmp_path / "a.jsonl")
    assert ended.status == 2
    assert f"got {LAYER_INDEX + 1}, expected K = {LAYER_INDEX}" in ended.error
    assert f"hidden_states[{LAYER_INDEX + 1}]" in ended.error
    assert verbalize(file, tmp_path / "b.jsonl", "--layer", LAYER_INDEX).status == 0
    assert verbalize(file, tmp_path / "c.jsonl", "--allow-layer-mismatch").status == 0
    pq.write_table(_table(_ONES, activation_layer=[LAYER_INDEX] * 3), file)
    assert verbalize(file, tmp_path / "d.jsonl").status == 0
    assert verbalize(file, tmp_path / "e.jsonl", "--layer", 0).status == 2


@pytest.mark.parametrize("name", ["in.npy", "in.parquet"])
def test_the_layer_of_a_sidecar_is_checked(verbalize: Command, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if file.suffix == ".npy":
        np.save(file, _ONES)
    else:
        pq.write_table(_table(_ONES), file)
    sidecar = tmp_path / f"{name}.nla_meta.yaml"
    text = "kind: nla_dataset\nextraction: {d_model: 72, layer_index: LAYER}\n"
    sidecar.write_text(text.replace("LAYER", "2"))
    assert f"got 2, expected K = {LAYER_INDEX}" in verbalize(file, tmp_path / "a.jsonl").error
    sidecar.write_text(text.replace("LAYER", str(LAYER_INDEX)))
    assert verbalize(file, tmp_path / "b.jsonl").status == 0
    sidecar.write_text(text.replace("LAYER", str(LAYER_INDEX)).replace("72", "73"))
    assert "expected 73" in verbalize(file, tmp_path / "c.jsonl").error
    sidecar.write_text("kind: [")
    assert "no YAML" in verbalize(file, tmp_path / "d.jsonl").error


def test_column_and_sidecar_must_agree(verbalize: Command, tmp_path: Path) -> None:
    file = tmp_path / "in.parquet"
    pq.write_table(_table(_ONES, activation_layer=[LAYER_INDEX] * 3), file)
    (tmp_path / "in.parquet.nla_meta.yaml").write_text(
        "kind: nla_dataset\nextraction: {d_model: 72, layer_index: 2}\n"
    )
    ended = verbalize(file, tmp_path / "out.jsonl")
    assert f"got {LAYER_INDEX}, expected 2 as its sidecar says" in ended.error


def test_scoring_can_be_left_out_and_asked_for(
    verbalize: Command, gloss: Command, small_pair: Pair, npy: Path, tmp_path: Path
) -> None:
    def rows(name: str, *arguments: object) -> list[dict[str, Any]]:
        assert verbalize(npy, tmp_path / name, *arguments).status == 3
        return [row for row in read_rows(tmp_path / name) if row["error"] is None]

    for row in rows("off.jsonl", "--no-score"):
        assert row["cosine"] is None and row["mse"] is None and row["fve"] is None
        assert "no_fve_baseline" not in row["flags"]
    for row in rows("on.jsonl", "--score", "--fve-baseline", 0.5):
        assert row["mse"] == pytest.approx(2 * (1 - row["cosine"]), abs=1e-5)
        assert row["fve"] == pytest.approx(1 - row["mse"] / 0.5, abs=1e-6)
        assert ("low_fidelity" in row["flags"]) == (row["fve"] < 0)
    out = tmp_path / "never.jsonl"
    alone = ("verbalize", npy, "--local", "--output", out)
    assert "--score needs an AR" in gloss(*alone, "--av", small_pair.av, "--score").error
    assert "--ar without --av" in gloss(*alone, "--ar", small_pair.ar).error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--temperature", "-1"], "temperature: got -1.0"),
        (["--top-p", "0"], "top_p: got 0.0"),
        (["--samples", "0"], "--samples: got 0"),
        (["--max-new-tokens", "0"], "max_new_tokens: got 0"),
        (["--max-new-tokens", "100000"], "use at most"),
        (["--device", "tpu"], "device: got 'tpu'"),
        (["--dtype", "int8"], "dtype: got 'int8'"),
        (["--quantization", "int4"], "quantization: got 'int4', expected one of none, fp8"),
        (["--injection-mode", "both"], "injection_mode: got 'both'"),
        (["--seed", "-1"], "seed: got -1"),
        (["--samples", "two"], "--samples"),
        (["--adress", "x"], "--adress"),
    ],
)
def test_refused_options(
    verbalize: Command, npy: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    ended = verbalize(npy, tmp_path / "out.jsonl", *arguments)
    assert ended.status == 2 and said in ended.error
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_kinds_are_refused(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    assert "no such file" in verbalize(tmp_path / "none.npy", tmp_path / "out.jsonl").error
    (tmp_path / "in.csv").write_text("1,2")
    assert "'.csv'" in verbalize(tmp_path / "in.csv", tmp_path / "out.jsonl").error
    assert "'.csv'" in verbalize(npy, tmp_path / "out.csv").error
    hostile = verbalize(tmp_path / "\x1b[31m\nx.npy", tmp_path / "out.jsonl").error
    assert "\\x1b[31m\\nx.npy" in hostile and "\x1b" not in hostile


def test_an_unwritable_place_is_one_line(verbalize: Command, npy: Path, tmp_path: Path) -> None:
    ended = verbalize(npy, tmp_path / "none" / "out.jsonl")
    assert ended.status == 1 and "cannot write" in ended.error
    (tmp_path / "in_the_way.parquet.parts").write_text("a file")
    ended = verbalize(npy, tmp_path / "in_the_way.parquet")
    assert ended.status == 1 and "cannot write" in ended.error


def test_a_corrupt_checkpoint_is_refused_before_anything_is_written(
    verbalize: Command, small_pair: Pair, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    av = copy_of(small_pair.av)
    weights = av / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    np.save(tmp_path / "in.npy", _ONES)
    ended = verbalize(tmp_path / "in.npy", tmp_path / "out.jsonl", "--av", av)
    assert ended.status == 2 and "safetensors" in ended.error
    assert not list(tmp_path.glob("out*"))
    # An AR that nobody asks is not even opened.
    ar = copy_of(small_pair.ar)
    (ar / "config.json").unlink()
    out = tmp_path / "unscored.jsonl"
    assert verbalize(tmp_path / "in.npy", out, "--ar", ar).status == 2
    assert verbalize(tmp_path / "in.npy", out, "--ar", ar, "--no-score").status == 0
