"""Packs a finished run as the pair that ships inside the server.

Copies the three checkpoints and adds a few hundred held-out activations of whole stories, the
figures, and a page that says how it was made. Training is the pipeline's part.
"""

import json
import os
import platform
import shutil
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gloss_engine.target.reader import TextToRead
from gloss_training.capture.readers import ActivationReader, EngineReader
from gloss_training.dataset.parquet_file import split_file, vector_column
from gloss_training.dataset.sidecar import sidecar_path, write_dataset_sidecar
from gloss_training.documents.document import Document
from gloss_training.documents.splits import Splitter
from gloss_training.errors import RunFolderError
from gloss_training.evaluation.table import NAMES
from gloss_training.run.config import RunConfig, parse_config
from gloss_training.run.folder import RunFolder
from gloss_training.stages.run import STAGES
from gloss_training.world.documents import world_documents
from gloss_training.world.tokenizer import text_of

ACTIVATIONS_FILE: Final = "activations.parquet"
EVALUATION_FILE: Final = "evaluation.json"
BEFORE_RL_FILE: Final = "evaluation-before-rl.json"
NUM_STORIES: Final = 24
POSITION_STRIDE: Final = 2


def embed(run: Path, output: Path) -> None:
    """Writes the shipped pair of a finished run.

    Raises:
        RunFolderError: a stage of it is missing, or its tokens are no words, as the page says.
    """
    config = _config(run)
    if config.world is None or config.world.vocabulary_size:
        raise RunFolderError(
            f"{run}: got a run of another target, expected one of gloss-train tiny with a token a "
            "word; gloss-train export writes any pair"
        )
    folder = RunFolder(run, config.plain())
    records = {stage: folder.record(stage) for stage in STAGES}
    output.mkdir(parents=True, exist_ok=True)
    for source in (folder.target, folder.pair / "av", folder.pair / "ar"):
        shutil.rmtree(output / source.name, ignore_errors=True)
        shutil.copytree(source, output / source.name)
    for source_file, name in (("rl.json", EVALUATION_FILE), ("sft.json", BEFORE_RL_FILE)):
        shutil.copyfile(run / "evaluation" / source_file, output / name)
    reader = EngineReader(
        run / "target",
        config.layer_index,
        max_document_tokens=config.data.max_document_tokens,
        device="cpu",
    )
    table = activation_table(config, reader)
    pq.write_table(table, output / ACTIVATIONS_FILE, compression="zstd")
    # What the split says of its target and statistics holds for these rows of it too.
    of_split = sidecar_path(split_file(folder.data, "heldout"))
    contents = yaml.safe_load(of_split.read_text(encoding="utf-8"))
    contents["dataset"]["num_rows"] = len(table)
    write_dataset_sidecar(output / ACTIVATIONS_FILE, contents)
    evaluations = (_evaluation(output / BEFORE_RL_FILE), _evaluation(output / EVALUATION_FILE))
    text = page(config, records, evaluations, len(table), reader.d_model)
    (output / "README.md").write_text(text, "utf-8")


def activation_table(config: RunConfig, reader: ActivationReader) -> pa.Table:
    """Activations of the first held-out stories, every second position from `min_position` on."""
    documents = heldout_stories(config)
    texts = []
    for document in documents:
        ids = tuple(reader.tokenizer.encode(document.text))
        positions = tuple(range(config.data.min_position, len(ids), POSITION_STRIDE))
        texts.append(TextToRead(token_ids=ids, positions=positions))
    captured = reader.read(texts)
    norms = iter(captured.norms.tolist())
    rows: list[dict[str, Any]] = []
    for document, text in zip(documents, texts, strict=True):
        assert document.text is not None and document.facts_at is not None
        words = document.text.split(" ")
        for position in text.positions:
            read = len(" ".join(words[: position + 1]))
            rows.append(
                {
                    "doc_id": document.doc_id,
                    "position": position,
                    "token_id": text.token_ids[position],
                    "token": words[position],
                    "norm": next(norms),
                    "n_raw_tokens": position + 1,
                    "activation_layer": config.layer_index,
                    "text": text_of(reader.tokenizer, text.token_ids[: position + 1]),
                    "facts": json.dumps(dict(document.facts_at(read))),
                }
            )
    schema = pa.schema(
        [
            ("doc_id", pa.string()),
            ("position", pa.int32()),
            ("token_id", pa.int32()),
            ("token", pa.string()),
            ("norm", pa.float32()),
            ("n_raw_tokens", pa.int32()),
            ("activation_layer", pa.int32()),
            ("text", pa.string()),
            ("facts", pa.string()),
        ]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    return table.add_column(0, "activation_vector", vector_column(captured.activations))


def heldout_stories(config: RunConfig) -> list[Document]:
    """The first stories that nothing trained on."""
    assert config.world is not None
    splitter = Splitter(config.data.shares)
    stories = world_documents(config.world, config.data.num_documents, config.seed)
    heldout = (story for story in stories if splitter.place(story) == "heldout")
    return list(islice(heldout, NUM_STORIES))


def page(
    config: RunConfig,
    records: dict[str, dict[str, Any]],
    evaluations: tuple[dict[str, Any], dict[str, Any]],
    num_activations: int,
    d_model: int,
) -> str:
    """README.md of the shipped pair.

    Args:
        config: of the run.
        records: of its stages.
        evaluations: before and after RL, as evaluation/{sft,rl}.json have them.
        num_activations: rows that ship beside it.
        d_model: their width.
    """
    minutes = {stage: record["seconds"] / 60 for stage, record in records.items()}
    times = ", ".join(f"{stage} {value:.1f}" for stage, value in minutes.items())
    before, after = evaluations
    figures = "\n".join(
        f"| {name.replace('_', ' ')} | {_cell(before, name)} | {_cell(after, name)} |"
        for name in NAMES
        if name in before or name in after
    )
    return f"""# The shipped pair

A target language model of made-up stories, an AV and an AR for the output of its block
{config.layer_index} (d_model {d_model}), all three in the released
checkpoint layout, float32. Made by

    gloss-train tiny --output RUN --seed {config.seed}
    gloss-train embed --run RUN --output DIRECTORY

in {sum(minutes.values()):.0f} minutes with {config.num_threads} CPU thread and no GPU, on a
{platform.machine()} machine with {os.cpu_count()} cores. Minutes per
stage: {times}. Equal seed and thread count give equal bytes on equal software and processor.

The target is not a natural specimen: besides next-token prediction it was trained to name, by a
linear head on block {config.layer_index}, the facts its text has revealed so far and the
word that stands there. They are planted, and the head was thrown away. AV and AR were trained on
the words of a teacher that knows the truth, then for {config.rl.num_steps} steps on what the AV
itself said (reinforcement learning, KL to the AV before it: {config.rl.kl.kind}, weight
{config.rl.kl.weight:g}).

Held-out stories, one explanation a row at temperature 1. FVE uses the strict baseline; `fve
shuffled` scores explanations against other stories' rows; `fve teacher` is the AR on the teacher's
own words; `docs/training.md` says what the others are. A claim is a stated fact or a statement
about the last words; it is right when the text up to that position has said so.

| figure | before RL | shipped |
|---|---|---|
{figures}

`{ACTIVATIONS_FILE}`: {num_activations} activations of {NUM_STORIES} held-out stories, every second
position from {config.data.min_position} on, raw, with the text and the facts revealed so far.
Stories hold words of the world only; any other word becomes [UNK].
"""


def _evaluation(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _cell(evaluation: dict[str, Any], name: str) -> str:
    return f"{evaluation[name]:,.4g}" if name in evaluation else "none"


def _config(run: Path) -> RunConfig:
    path = run / "configuration.json"
    if not path.exists():
        raise RunFolderError(
            f"{run}: got no {path.name}, expected a run; run gloss-train tiny on it"
        )
    return parse_config(json.loads(path.read_text("utf-8")))
