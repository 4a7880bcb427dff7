"""Builds an engine from checkpoint directories."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.ar.scorer import Scorer
from gloss_engine.av.verbalizer import Verbalizer
from gloss_engine.checkpoint import fingerprint
from gloss_engine.config import EngineConfig
from gloss_engine.device_memory import DeviceMemory, refusing
from gloss_engine.engine import Engine
from gloss_engine.errors import CheckpointError
from gloss_engine.facts import ModelFacts
from gloss_engine.host_memory import keep_freed_memory
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.kv.allocator import BlockAllocator
from gloss_engine.kv.pool import allocate_pool
from gloss_engine.kv.pool_size import num_pages
from gloss_engine.live_weights import LiveWeights
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.spec import ModelSpec
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_engine.program import AvProgram
from gloss_engine.released import released_baseline
from gloss_engine.runner import ModelRunner
from gloss_engine.scheduler import Scheduler
from gloss_engine.score_queue import ScoreQueue
from gloss_engine.sidecar import Sidecar
from gloss_engine.slots import SlotLimits, Slots
from gloss_engine.target.loading import load_explained, target_machinery, with_target
from gloss_engine.target.target import Target


def load_engine(
    av_directory: Path | str,
    ar_directory: Path | str | None = None,
    config: EngineConfig | None = None,
    *,
    target: Path | str | None = None,
) -> Engine:
    """Load an AV, and an AR if one is given, in the released layout.

    On a CPU this process keeps memory that it frees from now on (`host_memory.py`).

    Args:
        av_directory, ar_directory: the pair.
        config: settings.
        target: directory of the model that the pair explains, for requests of text; or None.

    Raises:
        CheckpointError: a checkpoint that does not hold together, or a pair that does not.
        ConfigError: settings that do not fit the checkpoint.
        MemoryTooSmall: a device that they do not fit.
    """
    config = config or EngineConfig()
    fix = "take a larger device, quantization fp8, or leave out the AR or the target"
    with refusing("the checkpoints", fix):
        return _load(av_directory, ar_directory, config, target)


def _load(
    av_directory: Path | str,
    ar_directory: Path | str | None,
    config: EngineConfig,
    target: Path | str | None,
) -> Engine:
    """See `load_engine`."""
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    if config.resolve_device().type == "cpu":
        keep_freed_memory()
    memory = DeviceMemory(config.resolve_device())
    verbalizer = Verbalizer(_directory(av_directory), config)
    scores = None
    reconstructor: Reconstructor | None = None
    if ar_directory is not None:
        reconstructor, scores = _scoring(_directory(ar_directory), verbalizer, config, memory)
    explained = None
    if target is not None:
        explained = load_explained(_directory(target), verbalizer, config)
    places = 0 if explained is None else config.resolve_capture_places()
    runner, scheduler = machinery(
        verbalizer.decoder, verbalizer.program, config, num_places=places, memory=memory
    )
    work = None
    if explained is not None:
        work = target_machinery(explained, runner.prefill_buffer, config, memory)
    facts = _facts(verbalizer, None if explained is None else explained.target, config)
    av = _checkpoint(Path(av_directory), verbalizer.spec, verbalizer.sidecar.av_template)
    ar = None
    if ar_directory is not None and reconstructor is not None:
        spec, template = reconstructor.decoder.spec, reconstructor.sidecar.ar_template
        ar = _checkpoint(Path(ar_directory), spec, template)
    info = _info(verbalizer, av, reconstructor, ar, config, scheduler)
    weights = LiveWeights(
        verbalizer.decoder,
        verbalizer.program,
        verbalizer.prompt.prefix_ids,
        reconstructor,
        None if explained is None else explained.target.decoder,
    )
    if explained is not None:
        info = with_target(info, explained.target, config)
    return Engine(
        runner,
        scheduler,
        verbalizer.reader,
        facts,
        scores,
        info,
        lag=config.resolve_lag(),
        target=work,
        target_share=config.target_share,
        watch_max_pending=config.watch_max_pending,
        device_memory=memory,
        weights=weights,
    )


def _scoring(
    directory: Path, verbalizer: Verbalizer, config: EngineConfig, memory: DeviceMemory
) -> tuple[Reconstructor, ScoreQueue]:
    """The AR that belongs to an AV, and the queue in front of it."""
    reconstructor = Reconstructor.load(
        directory,
        operations=verbalizer.decoder.operations,
        device=config.resolve_device(),
        dtype=config.resolve_dtype(),
        quantization=config.quantization,
    )
    check_pair(verbalizer.sidecar, reconstructor.sidecar)
    scores = ScoreQueue(
        Scorer(reconstructor, fve_baseline(verbalizer, reconstructor, config)[0]),
        batch=config.score_batch,
        max_tokens=config.max_score_tokens,
        wait_steps=config.score_wait_steps,
        budget_seconds=config.resolve_score_budget(),
        lag=config.resolve_lag(),
        memory=memory,
    )
    return reconstructor, scores


def _facts(verbalizer: Verbalizer, target: Target | None, config: EngineConfig) -> ModelFacts:
    """What the engine needs to know of what is loaded."""
    sidecar = verbalizer.sidecar
    return ModelFacts(
        d_model=verbalizer.spec.d_model,
        layer_index=sidecar.layer_index,
        prefix_len=len(verbalizer.prompt.prefix_ids),
        suffix_len=verbalizer.program.suffix_ids.shape[0],
        max_new_tokens=config.max_new_tokens,
        norm_median=sidecar.norm_median,
        min_position=sidecar.min_position,
        special_ids=verbalizer.special_ids,
        unknown_id=verbalizer.unknown_id,
        target_special_ids=frozenset() if target is None else target.special_ids,
        target_unknown_id=None if target is None else target.unknown_id,
    )


def _directory(path: Path | str) -> Path:
    """The checkpoint directory at `path`, refused where there is none."""
    if not Path(path).is_dir():
        raise CheckpointError(
            str(path),
            got="a file" if Path(path).exists() else "nothing",
            expected="a checkpoint directory",
            fix="Name the directory that holds config.json and nla_meta.yaml.",
        )
    return Path(path)


def check_pair(av: Sidecar, ar: Sidecar) -> None:
    """Refuse an AV and an AR that explain different activations.

    Raises:
        CheckpointError: width or layer that differ.
    """
    for name, got, expected in (
        ("d_model", ar.d_model, av.d_model),
        ("layer K", ar.layer_index, av.layer_index),
    ):
        if None not in (got, expected) and got != expected:
            raise CheckpointError(
                f"AR: {name}",
                got=got,
                expected=f"the AV's {expected}",
                fix="AV and AR must come from one release.",
            )


def fve_baseline(
    verbalizer: Verbalizer, reconstructor: Reconstructor, config: EngineConfig
) -> tuple[float | None, str | None]:
    """The strict baseline: a sidecar's, else the configured one, else that of a released pair.

    Returns:
        The baseline and where it comes from (see ModelInfo), or None twice.
    """
    released = released_baseline(
        d_model=verbalizer.spec.d_model,
        num_layers=verbalizer.spec.num_layers,
        layer_index=verbalizer.sidecar.layer_index,
        marker_id=verbalizer.prompt.marker_id,
    )
    for stated, source in (
        (reconstructor.sidecar.fve_baseline, "sidecar"),
        (verbalizer.sidecar.fve_baseline, "sidecar"),
        (config.fve_baseline, "setting"),
        (released, "released"),
    ):
        if stated is not None:
            return stated, source
    return None, None


def _checkpoint(directory: Path, spec: ModelSpec, template: str | None) -> CheckpointInfo:
    return CheckpointInfo(
        architecture=spec.architecture,
        num_layers=spec.num_layers,
        d_model=spec.d_model,
        vocab_size=spec.vocab_size,
        fingerprint=fingerprint(directory),
        template=template or "",
    )


def _info(
    verbalizer: Verbalizer,
    av: CheckpointInfo,
    reconstructor: Reconstructor | None,
    ar: CheckpointInfo | None,
    config: EngineConfig,
    scheduler: Scheduler,
) -> ModelInfo:
    """What is loaded, for those who ask."""
    sidecar = verbalizer.sidecar
    baseline: tuple[float | None, str | None] = (None, None)
    if reconstructor is not None:
        baseline = fve_baseline(verbalizer, reconstructor, config)
    device, dtype = config.resolve_device().type, str(config.resolve_dtype())
    deciding = (
        av.fingerprint,
        ar and ar.fingerprint,
        config.injection_mode,
        baseline[0],
        device,
        dtype,
        config.quantization,
        verbalizer.decoder.operations.backend,
    )
    assert sidecar.injection_scale is not None
    return ModelInfo(
        fingerprint=hashlib.sha256(repr(deciding).encode()).hexdigest()[:16],
        av=av,
        ar=ar,
        layer_index=sidecar.layer_index,
        injection_scale=sidecar.injection_scale,
        injection_mode=config.injection_mode,
        mse_scale=None if reconstructor is None else reconstructor.sidecar.mse_scale,
        fve_baseline=baseline[0],
        baseline_source=baseline[1],
        norm_median=sidecar.norm_median,
        min_position=sidecar.min_position,
        prefix_tokens=len(verbalizer.prompt.prefix_ids),
        suffix_tokens=scheduler.suffix_len,
        max_new_tokens=config.max_new_tokens,
        num_slots=config.num_slots,
        num_pages=scheduler.allocator.capacity,
        device=device,
        dtype=dtype.removeprefix("torch."),
        quantization=config.quantization,
        kernels=verbalizer.decoder.operations.backend,
        batch_invariant=config.batch_invariant,
        tokenizer=verbalizer.reader.tokenizer.backend_tokenizer.to_str(),
    )


def machinery(
    decoder: Decoder,
    program: AvProgram,
    config: EngineConfig,
    num_places: int = 0,
    memory: DeviceMemory | None = None,
) -> tuple[ModelRunner, Scheduler]:
    """Pages and slots for a loaded AV, with what runs and what schedules them.

    Args:
        decoder: the AV.
        program: its prompt, prefix and stops.
        config: the settings.
        num_places: rows of the prefill buffer for captures that wait for their prefill.
        memory: the device's; None: nobody else asks for it.

    Raises:
        ConfigError: pages that do not fit the device's memory.
    """
    suffix_len = program.suffix_ids.shape[0]
    max_private_len = suffix_len + config.max_new_tokens - 1
    page_size = config.resolve_page_size(suffix_len)
    max_pages = -(-max_private_len // page_size)
    max_prefills = min(config.num_slots, max(1, config.max_prefill_tokens // (suffix_len - 1)))
    # Before the pages, which take what memory is left.
    prefill_buffer = PrefillBuffer(
        decoder, program, max_prefills=max_prefills, num_places=num_places
    )
    size = num_pages(decoder, config, suffix_len)
    cache = allocate_pool(decoder.spec, size, page_size, decoder.device, decoder.dtype)
    limits = SlotLimits(
        num_slots=config.num_slots,
        max_new_tokens=config.max_new_tokens,
        max_pages=max_pages,
        vocab_size=decoder.spec.vocab_size,
    )
    sizes = config.step_sizes(config.num_slots, max_prefills, max_private_len)
    runner = ModelRunner(
        decoder,
        program,
        cache,
        Slots(limits, decoder.operations, decoder.device),
        prefill_buffer,
        sizes=sizes,
        batch_invariant=config.batch_invariant,
        memory=memory,
    )
    scheduler = Scheduler(
        BlockAllocator(size, page_size),
        config.num_slots,
        suffix_len,
        config.max_prefill_tokens,
        config.resolve_max_step_tokens(),
        sizes,
        config.batch_share,
    )
    return runner, scheduler
