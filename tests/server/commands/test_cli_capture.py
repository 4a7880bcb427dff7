"""`gloss capture`: its columns, and that its rows are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from gloss_server.commands.capture.results import captured_schema
from gloss_server.embedded import embedded_pair
from support.capture_runs import TEXTS, TURNS, vectors
from support.checkpoints import NUM_LAYERS
from support.command_runs import Command, in_order, read_rows, write_rows
from support.edits import edit_weights
from support.target_reference import ReferenceTarget

INPUT: list[dict[str, Any]] = [
    *({"text": text} for text in TEXTS),
    {"messages": TURNS, "doc_id": "chat"},
]


@pytest.fixture(scope="module")
def references(targets: dict[str, Path]) -> Callable[[str], ReferenceTarget]:
    """The target of an architecture, as transformers loads it."""
    loaded: dict[str, ReferenceTarget] = {}

    def reference(arch: str) -> ReferenceTarget:
        if arch not in loaded:
            loaded[arch] = ReferenceTarget(targets[arch])
        return loaded[arch]

    return reference


def token_ids(reference: ReferenceTarget, row: dict[str, Any]) -> list[int]:
    """A row's tokens, by transformers."""
    if "messages" in row:
        text = reference.tokenizer.apply_chat_template(row["messages"], tokenize=False)
        return list(reference.tokenizer.encode(text, add_special_tokens=False))
    return list(reference.tokenizer.encode(row["text"]))


@pytest.mark.parametrize("layer", [0, 3, NUM_LAYERS - 1])
def test_every_row_is_the_output_of_block_k(
    gloss: Command,
    targets: dict[str, Path],
    arch: str,
    layer: int,
    references: Callable[[str], ReferenceTarget],
    tmp_path: Path,
) -> None:
    file, out = write_rows(tmp_path / "in.jsonl", INPUT), tmp_path / "out.parquet"
    ended = gloss(
        *("capture", "--target", targets[arch], "--layer", layer, "--positions", "all"),
        *("--input", file, "--output", out),
    )
    assert ended.status == 0, ended.stderr
    table, reference, at = pq.read_table(out), references(arch), 0
    d_model = reference.activations([0], 0).shape[1]
    assert table.schema.equals(captured_schema(d_model))
    for row, doc_id in zip(INPUT, ("0", "1", "2", "chat"), strict=True):
        ids = token_ids(reference, row)
        got = table.slice(at, len(ids))
        at += len(ids)
        expected = reference.activations(ids, layer).numpy()
        if layer < NUM_LAYERS - 1:
            out_of_model = reference.model(torch.tensor([ids]), output_hidden_states=True)
            states = out_of_model.hidden_states[layer + 1][0].detach().numpy()
            np.testing.assert_array_equal(states, expected)
        # float32 sums in another order, over values up to about 1e2.
        np.testing.assert_allclose(vectors(got), expected, rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(
            got["norm"], np.linalg.norm(expected.astype(np.float64), axis=1), rtol=1e-5
        )
        columns = got.drop_columns(["activation_vector", "norm"]).to_pydict()
        special = set(reference.tokenizer.all_special_ids)
        assert columns == {
            "doc_id": [doc_id] * len(ids),
            "position": list(range(len(ids))),
            "token_id": ids,
            "token": [reference.tokenizer.backend_tokenizer.decode([i], False) for i in ids],
            "is_special": [token_id in special for token_id in ids],
            "n_raw_tokens": list(range(1, len(ids) + 1)),
            "activation_layer": [layer] * len(ids),
        }
    assert at == len(table)
    sidecar = yaml.safe_load((tmp_path / "out.parquet.nla_meta.yaml").read_text())
    assert sidecar == {
        "schema_version": 2,
        "kind": "nla_dataset",
        "extraction": {"d_model": d_model, "layer_index": layer},
    }
    assert not (tmp_path / "out.parquet.failed.jsonl").exists()


def test_a_chat_gets_no_second_bos(
    capture: Command, targets: dict[str, Path], tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "in.jsonl", [{"messages": TURNS}, {"text": "x"}])
    capture(file, tmp_path / "out.parquet", target=targets["llama3"])
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for doc_id in ("0", "1"):
        texts = [row["token"] for row in rows if row["doc_id"] == doc_id]
        assert texts[0] == "<|begin_of_text|>" and texts.count("<|begin_of_text|>") == 1
        assert next(row["is_special"] for row in rows if row["doc_id"] == doc_id)


@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        ("all", slice(None)),
        ("last", slice(-1, None)),
        ("2:5", slice(2, 5)),
        ("-3:", slice(-3, None)),
        (":-1:4", slice(None, -1, 4)),
        ("1,-1,0,1", [0, 1, -1]),
        ("-2", [-2]),
    ],
)
def test_positions(
    capture: Command, tmp_path: Path, positions: str, chosen: slice | list[int]
) -> None:
    file = write_rows(tmp_path / "in.jsonl", [{"text": TEXTS[0]}, {"text": TEXTS[2]}])
    capture(file, tmp_path / "all.parquet")
    ended = capture(file, tmp_path / "out.parquet", "--positions", positions)
    assert ended.status == 0
    every, some = (pq.read_table(tmp_path / name) for name in ("all.parquet", "out.parquet"))
    expected = []
    for doc_id in ("0", "1"):
        places = [
            p
            for p, d in zip(every["position"], every["doc_id"], strict=True)
            if d.as_py() == doc_id
        ]
        numbers = [place.as_py() for place in places]
        wanted = numbers[chosen] if isinstance(chosen, slice) else [numbers[i] for i in chosen]
        expected += [(doc_id, position) for position in wanted]
    assert list(zip(some["doc_id"].to_pylist(), some["position"].to_pylist(), strict=True)) == (
        expected
    )
    places = list(zip(every["doc_id"].to_pylist(), every["position"].to_pylist(), strict=True))
    rows = [places.index(place) for place in expected]
    # Whether the last block ran for all rows or for some: another shape of its products.
    np.testing.assert_allclose(vectors(some), vectors(every)[rows], rtol=1e-5, atol=1e-5)


def test_activations_without_a_direction_are_left_out(
    capture: Command,
    targets: dict[str, Path],
    references: Callable[[str], ReferenceTarget],
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    zero, huge, usual = (references("qwen3").tokenizer.encode(c)[0] for c in ("x", "y", "z"))

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name.endswith("embed_tokens.weight"):
            tensor[zero], tensor[huge] = 0, 1e30
        return tensor

    target = copy_of(targets["qwen3"])
    edit_weights(target, edit)
    # Without biases, of a zero row every block makes a zero row; 1e30 squared is no float32.
    rows = [{"text": "x", "doc_id": "a"}, {"text": "zyz", "doc_id": "b"}, {"text": "z"}]
    file, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    ended = capture(file, out, target=target)
    assert ended.status == 3 and "2 activations left out" in ended.stderr.splitlines()[0]
    table = pq.read_table(out)
    assert table["token_id"].to_pylist() == [usual] * 3
    assert np.isfinite(vectors(table)).all() and min(table["norm"].to_pylist()) > 0
    failed = read_rows(tmp_path / "out.parquet.failed.jsonl")
    assert [(row["doc_id"], row["position"], row["reason"]) for row in failed] == [
        ("a", 0, "ZERO_VECTOR"),
        ("b", 1, "NON_FINITE_VECTOR"),
    ]


def test_the_embedded_pair_explains_what_was_captured(gloss: Command, tmp_path: Path) -> None:
    shipped = pq.read_table(embedded_pair().activations)
    last = {row["doc_id"]: row["text"] for row in shipped.select(["doc_id", "text"]).to_pylist()}
    rows = [{"doc_id": doc_id, "text": text} for doc_id, text in list(last.items())[:4]]
    file, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet"
    assert gloss("capture", "--input", file, "--positions", "8::4", "--output", out).status == 0
    captured = pq.read_table(out)
    found = {
        (row["doc_id"], row["position"]): vector
        for row, vector in zip(shipped.to_pylist(), vectors(shipped), strict=True)
    }
    same = 0
    for row, vector in zip(captured.to_pylist(), vectors(captured), strict=True):
        expected = found.get((row["doc_id"], row["position"]))
        if expected is not None:
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
            same += 1
    assert same > 20
    lines = tmp_path / "out.jsonl"
    ended = gloss("verbalize", out, "--local", "--seed", 1, "--output", lines)
    assert ended.status == 0, ended.stderr
    explanations = in_order(read_rows(lines))
    assert len(explanations) == len(captured)
    assert np.mean([row["cosine"] for row in explanations]) > 0.9
    assert not any("early_position" in row["flags"] for row in explanations)
