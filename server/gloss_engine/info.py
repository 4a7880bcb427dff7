"""What is loaded, as plain values: for callers who ask and for results that name their origin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """One checkpoint.

    Attributes:
        architecture: in Hugging Face's words, such as qwen2.
        num_layers: blocks it runs.
        d_model: width of its residual stream.
        vocab_size: rows of its vocabulary.
        fingerprint: 16 hex digits that name its content.
        template: prompt template with its placeholders.
    """

    architecture: str
    num_layers: int
    d_model: int
    vocab_size: int
    fingerprint: str
    template: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """An engine's checkpoints and the settings that decide its results.

    Attributes:
        fingerprint: over the checkpoints' and every setting here that changes results.
        av, ar: the pair; ar is None where none is loaded.
        layer_index: K, or None where the checkpoint does not say.
        injection_scale: L2 norm of an injected activation; injection_mode: replace or add.
        mse_scale: norm both vectors get before the mse; None without an AR.
        fve_baseline: None where none is known; baseline_source: sidecar, setting, released or None.
        norm_median, min_position: for flags; None where not known.
        prefix_tokens, suffix_tokens: prompt tokens computed once, and per activation.
        max_new_tokens: most tokens of an explanation.
        num_slots: most sequences that run at once; num_pages: private pages.
        device, dtype: where and in what it runs; quantization: of the linear layers, none or fp8.
        kernels: reference or triton.
        batch_invariant: whether draws never depend on what else runs; not in the fingerprint,
            since it changes rounding only.
        tokenizer: the AV's, in the JSON of the tokenizers library, for text as it streams.
        target: the explained model; None where none is loaded.
        target_tokenizer: its tokenizer, as `tokenizer`; None without a target.
        target_special_ids: its special tokens.
        target_generates: whether it is loaded whole, as Watch needs it.
        max_text_tokens: most tokens of a text it reads; 0 without a target.
        max_watch_tokens: most tokens it generates in a Watch; 0 where it does not.
        watch_max_pending: most unfinished activations of a Watch that states no bound.
    """

    fingerprint: str
    av: CheckpointInfo
    ar: CheckpointInfo | None
    layer_index: int | None
    injection_scale: float
    injection_mode: str
    mse_scale: float | None
    fve_baseline: float | None
    baseline_source: str | None
    norm_median: float | None
    min_position: int | None
    prefix_tokens: int
    suffix_tokens: int
    max_new_tokens: int
    num_slots: int
    num_pages: int
    device: str
    dtype: str
    quantization: str
    kernels: str
    batch_invariant: bool
    tokenizer: str
    target: CheckpointInfo | None = None
    target_tokenizer: str | None = None
    target_special_ids: tuple[int, ...] = ()
    target_generates: bool = False
    max_text_tokens: int = 0
    max_watch_tokens: int = 0
    watch_max_pending: int = 0
