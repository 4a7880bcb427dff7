"""Activations of stories: read by a forward hook, paired with explanations, kept as parquet.

Every split has stories of its own, so no document is in two of them. Vectors are stored raw, as
fixed-size lists: variable-length ones have corrupted large files elsewhere.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from gloss_training.data import batch_of_ids, damaged_story
from gloss_training.prompts import wrap
from gloss_training.run_config import RunConfig
from gloss_training.seeds import generator_for
from gloss_training.settings import PromptSettings
from gloss_training.teacher import explain
from gloss_training.world import Story

SPLITS: Final = ("av", "ar", "rl", "heldout")
BATCH_SIZE: Final = 64


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One split in memory; row i of every field belongs together.

    activations: [n, d] float32, raw. words: the story up to and including the position.
    """

    activations: torch.Tensor
    explanations: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    facts: tuple[dict[str, str], ...]
    doc_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.explanations)


def capture(model: Qwen3ForCausalLM, token_ids: torch.Tensor, layer_index: int) -> torch.Tensor:
    """Output of block `layer_index` for right-padded ids [b, t] -> [b, t, d] float32.

    Causal attention never looks right, so the padding changes nothing before it.
    """
    seen: list[torch.Tensor] = []

    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = model.model.layers[layer_index].register_forward_hook(hook)
    try:
        with torch.no_grad():
            model.model(input_ids=token_ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0].float()


def split_stories(config: RunConfig, split: str) -> list[tuple[str, Story]]:
    """(doc_id, story) of one split; the same for the same configuration."""
    assert config.world is not None
    shares = config.data.shares
    whole = shares.av + shares.ar + shares.rl + shares.heldout
    count = round(config.data.num_documents * getattr(shares, split) / whole)
    generator = generator_for(config.seed, f"stories-{split}")
    return [
        (f"{split}-{index:06d}", damaged_story(config.world, generator)) for index in range(count)
    ]


def make_rows(
    config: RunConfig, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str
) -> Rows:
    """Activations at random positions of the split's stories, each with the teacher's words."""
    assert config.world is not None
    stories = split_stories(config, split)
    generator = generator_for(config.seed, f"positions-{split}")
    vectors, explanations, words, facts, doc_ids = [], [], [], [], []
    for start in range(0, len(stories), BATCH_SIZE):
        batch = stories[start : start + BATCH_SIZE]
        token_ids = batch_of_ids(tokenizer, [story for _, story in batch])
        states = capture(model, token_ids, config.layer_index)
        for row, (doc_id, story) in enumerate(batch):
            for position in _positions(config, len(story.words), generator):
                vectors.append(states[row, position])
                explanations.append(
                    explain(story, position, generator, config.world.num_ending_words)
                )
                words.append(story.words[: position + 1])
                facts.append(story.revealed(position))
                doc_ids.append(doc_id)
    return Rows(
        activations=torch.stack(vectors),
        explanations=tuple(explanations),
        words=tuple(words),
        facts=tuple(facts),
        doc_ids=tuple(doc_ids),
    )


def vector_column(activations: torch.Tensor) -> pa.FixedSizeListArray:
    """[n, d] as fixed-size lists of float32."""
    flat = pa.array(activations.contiguous().numpy().reshape(-1), type=pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, activations.shape[1])


def write_rows(
    path: Path, rows: Rows, split: str, layer_index: int, prompt: PromptSettings
) -> None:
    """One split as parquet; `response` is null where the AV is not trained on the row."""
    responses = [wrap(text) if split == "av" else None for text in rows.explanations]
    if split == "av":
        prompts = [prompt.av_template.format(injection_char=prompt.injection_char)] * len(rows)
    else:
        prompts = [prompt.ar_template.format(explanation=text) for text in rows.explanations]
    table = pa.table(
        {
            "prompt": prompts,
            "response": pa.array(responses, type=pa.string()),
            "activation_vector": vector_column(rows.activations),
            "n_raw_tokens": pa.array([len(words) for words in rows.words], type=pa.int32()),
            "activation_layer": pa.array([layer_index] * len(rows), type=pa.int32()),
            "doc_id": list(rows.doc_ids),
            "explanation": list(rows.explanations),
            "words": pa.array([list(words) for words in rows.words], type=pa.list_(pa.string())),
            "facts": [json.dumps(facts) for facts in rows.facts],
        }
    )
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path) -> Rows:
    """One split back from parquet."""
    table = pq.read_table(path)
    column = table["activation_vector"].combine_chunks()
    flat = np.array(column.flatten(), dtype=np.float32)
    return Rows(
        activations=torch.from_numpy(flat.reshape(len(table), column.type.list_size)),
        explanations=tuple(table["explanation"].to_pylist()),
        words=tuple(tuple(words) for words in table["words"].to_pylist()),
        facts=tuple(json.loads(facts) for facts in table["facts"].to_pylist()),
        doc_ids=tuple(table["doc_id"].to_pylist()),
    )


def _positions(config: RunConfig, length: int, generator: np.random.Generator) -> Iterator[int]:
    """Distinct positions of one story from `min_position` on, in order."""
    usable = np.arange(config.data.min_position, length)
    count = min(config.data.positions_per_document, len(usable))
    yield from (int(p) for p in np.sort(generator.choice(usable, size=count, replace=False)))
