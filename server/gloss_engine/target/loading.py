"""Builds the target's side of an engine: the model, its pages, slots and steps."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from gloss_engine.av.verbalizer import Verbalizer
from gloss_engine.checkpoint import fingerprint
from gloss_engine.config import ConfigError, EngineConfig
from gloss_engine.device_memory import DeviceMemory
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.models.batch import PagedCache
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.slots import SlotLimits, Slots
from gloss_engine.target.generator import Generator
from gloss_engine.target.reader import TextReader
from gloss_engine.target.step import TargetStep
from gloss_engine.target.target import Target, load_target
from gloss_engine.target.work import TargetWork

_CPU_PAGE = 256
"""On a CPU: what most prompts with their continuation need, so that one page each is read in place;
a page for the longest would be mostly empty."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A target that is loaded beside its AV.

    Attributes:
        target: the model.
        cache: pages for what it generates; None where it only reads.
    """

    target: Target
    cache: PagedCache | None


def load_explained(directory: Path, verbalizer: Verbalizer, config: EngineConfig) -> Explained:
    """Load the model that an AV explains, and take memory for what it generates.

    Before the AV's pages, which get what is left.

    Raises:
        CheckpointError: another model, or one that does not hold together.
        ConfigError: an AV that does not say which layer it explains.
    """
    layer = verbalizer.sidecar.layer_index
    if layer is None:
        raise ConfigError(
            f"target: the AV {verbalizer.directory.name} does not say which layer it explains; "
            "write extraction_layer_index into its nla_meta.yaml"
        )
    generates = config.target_generates
    target = load_target(
        directory, config, layer_index=layer, generates=generates, verbalizer=verbalizer
    )
    if not generates:
        return Explained(target=target, cache=None)
    page_size, num_pages = _page_size(target, config), _num_pages(target, config)
    decoder = target.decoder
    cache = allocate_pool(decoder.spec, num_pages, page_size, decoder.device, decoder.dtype)
    return Explained(target=target, cache=cache)


def target_machinery(
    explained: Explained,
    buffer: PrefillBuffer,
    config: EngineConfig,
    memory: DeviceMemory | None = None,
) -> TargetWork:
    """What runs a loaded target and decides what it runs; `memory` is the device's."""
    target = explained.target
    reader = TextReader(target, config.max_read_tokens, buffer)
    if explained.cache is None:
        return TargetWork(target, reader, None, batch_share=config.batch_share, memory=memory)
    decoder, longest = target.decoder, _longest(target, config)
    page_size = explained.cache.keys.shape[3]
    limits = SlotLimits(
        num_slots=config.num_watches,
        max_new_tokens=config.max_watch_tokens + 1,
        max_pages=-(-longest // page_size),
        vocab_size=decoder.spec.vocab_size,
    )
    slots = Slots(limits, decoder.operations, decoder.device)
    step = TargetStep(target, explained.cache, slots, buffer)
    allocator = BlockAllocator(explained.cache.keys.shape[1], page_size)
    sizes = config.step_sizes(config.num_watches, 0, longest)
    generator = Generator(step, explained.cache, allocator, sizes, buffer, memory)
    budget = config.read_budget_ms / 1e3
    return TargetWork(target, reader, generator, budget, config.batch_share, memory)


def with_target(info: ModelInfo, target: Target, config: EngineConfig) -> ModelInfo:
    """What is loaded, with the target."""
    print_of_target = fingerprint(target.directory)
    whole = f"{info.fingerprint} {print_of_target}"
    most = min(config.max_watch_tokens, target.spec.max_positions - 1)
    return replace(
        info,
        fingerprint=hashlib.sha256(whole.encode()).hexdigest()[:16],
        target=CheckpointInfo(
            architecture=target.spec.architecture,
            num_layers=target.num_layers,
            d_model=target.spec.d_model,
            vocab_size=target.spec.vocab_size,
            fingerprint=print_of_target,
            template="",
        ),
        target_tokenizer=target.tokenizer.backend_tokenizer.to_str(),
        target_special_ids=tuple(sorted(target.special_ids)),
        target_generates=target.generates,
        max_text_tokens=target.max_text_tokens,
        max_watch_tokens=most if target.generates else 0,
        watch_max_pending=config.watch_max_pending,
    )


def _longest(target: Target, config: EngineConfig) -> int:
    """Most keys of a sequence."""
    return min(config.max_text_tokens + config.max_watch_tokens, target.spec.max_positions)


def _page_size(target: Target, config: EngineConfig) -> int:
    if config.page_size is not None:
        return config.page_size
    on_cpu = config.resolve_device().type == "cpu"
    return min(_CPU_PAGE, _longest(target, config)) if on_cpu else 16


def _num_pages(target: Target, config: EngineConfig) -> int:
    """Pages for every slot at its longest, and page 0."""
    return 1 + config.num_watches * -(-_longest(target, config) // _page_size(target, config))
