"""Capture of layer K, disjoint splits, and parquet files that give back what went in."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.activations import (
    SPLITS,
    capture,
    make_rows,
    read_rows,
    split_stories,
    write_rows,
)
from gloss_training.run_config import RunConfig
from gloss_training.tokenizer import word_ids
from gloss_training.world_settings import WORLD_PROMPT


def test_layer_k_is_hidden_state_k_plus_one(target: Qwen3ForCausalLM) -> None:
    token_ids = torch.randint(0, target.config.vocab_size, (3, 11))
    states = target(token_ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(capture(target, token_ids, 2), states[3], rtol=0, atol=0)
    assert not torch.equal(states[2], states[3])
    hooks = dict(target.model.layers[2]._forward_hooks)
    capture(target, token_ids, 2)
    assert dict(target.model.layers[2]._forward_hooks) == hooks


def test_padding_does_not_change_activations(target: Qwen3ForCausalLM) -> None:
    token_ids = torch.randint(10, target.config.vocab_size, (1, 9))
    padded = torch.cat([token_ids, torch.ones(1, 5, dtype=torch.int64)], dim=1)
    alone = capture(target, token_ids, 2)
    torch.testing.assert_close(capture(target, padded, 2)[:, :9], alone, rtol=1e-5, atol=1e-5)


def test_splits_share_no_document_and_no_story(config: RunConfig) -> None:
    seen: set[tuple[str, ...]] = set()
    ids: set[str] = set()
    total = 0
    for split in SPLITS:
        for doc_id, story in split_stories(config, split):
            seen.add(story.words)
            ids.add(doc_id)
            total += 1
    assert len(seen) == len(ids) == total


def test_rows_hold_the_activation_of_their_own_words(
    config: RunConfig, target: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = make_rows(config, target, tokenizer, "heldout")
    stories = dict(split_stories(config, "heldout"))
    assert len(rows) == 8 * config.data.positions_per_document
    for index in range(0, len(rows), 7):
        words = rows.words[index]
        assert len(words) > config.data.min_position
        assert stories[rows.doc_ids[index]].words[: len(words)] == words
        assert stories[rows.doc_ids[index]].revealed(len(words) - 1) == rows.facts[index]
        alone = capture(target, torch.tensor([word_ids(tokenizer, words)]), 2)[0, -1]
        torch.testing.assert_close(rows.activations[index], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("split", SPLITS)
def test_parquet_gives_back_the_rows(
    split: str,
    tmp_path: Path,
    config: RunConfig,
    target: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rows = make_rows(config, target, tokenizer, split)
    path = tmp_path / "rows.parquet"
    write_rows(path, rows, split, 2, config.prompt)
    back = read_rows(path)
    assert torch.equal(back.activations, rows.activations)
    assert (back.explanations, back.words, back.facts, back.doc_ids) == (
        rows.explanations,
        rows.words,
        rows.facts,
        rows.doc_ids,
    )
    table = pq.read_table(path)
    width = rows.activations.shape[1]
    assert table["activation_vector"].type == pa.list_(pa.float32(), width)
    assert table["n_raw_tokens"].to_pylist() == [len(words) for words in rows.words]
    assert set(table["activation_layer"].to_pylist()) == {2}
    first = table.slice(0, 1).to_pylist()[0]
    if split == "av":
        assert WORLD_PROMPT.injection_char in first["prompt"]
        assert first["response"] == f"<explanation> {rows.explanations[0]} </explanation>"
    else:
        assert rows.explanations[0] in first["prompt"]
        assert first["response"] is None
