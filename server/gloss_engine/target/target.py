"""The target: the explained model, loaded to be read and, where it is whole, to generate.

The same decoder as the AV's, but never quantised: what is explained are the activations that it has
in its own type. What it has in common with the AV, weights or tokenizer, is held once. Running it
over texts is the reader's work, generating the generator's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gloss_engine.av.verbalizer import Verbalizer
from gloss_engine.checkpoint import (
    end_of_sequence_ids,
    load_tokenizer,
    read_spec,
    stream_weights,
)
from gloss_engine.config import EngineConfig
from gloss_engine.errors import CheckpointError
from gloss_engine.models.decoder import Decoder, Donor
from gloss_engine.models.spec import ModelSpec
from gloss_engine.sidecar import require_plain_model
from gloss_engine.weight_sharing import can_share, equal_weights, same_tokenizer


class Target:
    """A loaded target.

    Attributes:
        directory: where it came from.
        spec: its architecture; `decoder` may hold fewer blocks.
        decoder: its weights.
        tokenizer: its own, or the AV's where both are the same.
        layer_index: K, the block whose output is read by default.
        generates: whether it is whole.
        eos_ids: ids that end its generations.
        special_ids, unknown_id: for flags.
        max_text_tokens: longest text it reads.
    """

    def __init__(
        self,
        directory: Path,
        spec: ModelSpec,
        decoder: Decoder,
        tokenizer: Any,
        layer_index: int,
        max_text_tokens: int,
    ) -> None:
        self.directory, self.spec, self.decoder = directory, spec, decoder
        self.tokenizer, self.layer_index = tokenizer, layer_index
        self.max_text_tokens = max_text_tokens
        self.generates = decoder.head is not None
        self.eos_ids = end_of_sequence_ids(directory, tokenizer)
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.unknown_id: int | None = tokenizer.unk_token_id

    @property
    def num_layers(self) -> int:
        """Blocks that are loaded."""
        return len(self.decoder.blocks)


def load_target(
    directory: Path,
    config: EngineConfig,
    *,
    layer_index: int,
    generates: bool,
    verbalizer: Verbalizer | None = None,
) -> Target:
    """Load a target: the blocks up to K, or all of it.

    Args:
        directory: a plain Hugging Face model directory with its tokenizer.
        config: device, precision and limits.
        layer_index: K.
        generates: load all of it.
        verbalizer: the AV that explains it, already loaded; what both have in common is shared.

    Raises:
        CheckpointError: a directory that is no model, an AV or an AR, or another model than the AV
            explains.
    """
    spec = read_spec(directory)
    require_plain_model(directory)
    _check(directory, spec, layer_index, verbalizer)
    donor, elsewhere = None, frozenset[str]()
    if verbalizer is not None and can_share(spec, verbalizer.spec):
        equal = equal_weights(directory, verbalizer.directory)
        donor, elsewhere = Donor(decoder=verbalizer.decoder, holds=equal.holds), equal.names
    num_positions = config.max_text_tokens + (config.max_watch_tokens if generates else 0)
    operations = verbalizer.decoder.operations if verbalizer else config.operations()
    decoder = Decoder(
        spec,
        num_layers=None if generates else layer_index + 1,
        max_positions=num_positions,
        operations=operations,
        device=config.resolve_device(),
        dtype=config.resolve_dtype(),
        donor=donor,
    )
    own = decoder.targets()
    stream_weights(directory, own, elsewhere=elsewhere - own.keys())
    decoder.pack()
    if verbalizer is not None and same_tokenizer(directory, verbalizer.directory):
        tokenizer = verbalizer.reader.tokenizer
    else:
        tokenizer = load_tokenizer(directory)
    longest = min(config.max_text_tokens, spec.max_positions)
    return Target(directory, spec, decoder, tokenizer, layer_index, longest)


def _check(
    directory: Path, spec: ModelSpec, layer_index: int, verbalizer: Verbalizer | None
) -> None:
    """Refuse a model that has no block K, or that the AV does not explain."""
    if layer_index >= spec.num_layers:
        raise CheckpointError(
            f"{directory.name}: num_hidden_layers",
            got=spec.num_layers,
            expected=f"{layer_index + 1} or more, to read the output of block K = {layer_index}",
            fix="K counts blocks from 0. Name the model that was captured from, whole.",
        )
    if verbalizer is not None and spec.d_model != verbalizer.spec.d_model:
        raise CheckpointError(
            f"{directory.name}: d_model",
            got=spec.d_model,
            expected=f"the AV's {verbalizer.spec.d_model}",
            fix="Name the model that this AV explains.",
        )
