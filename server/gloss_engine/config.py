"""How an engine is set up: device, precision, sizes. Validated once, never changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from gloss_engine.errors import GlossError
from gloss_engine.floor import AR_TAIL_TOKENS
from gloss_engine.step_shape import StepSizes
from gloss_kernels import BACKENDS, Operations

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
QUANTIZATIONS = ("none", "fp8")
INJECTION_MODES = ("replace", "add")
_LEAST = {
    "num_slots": 1,
    "page_size": 1,
    "num_pages": 2,
    "max_new_tokens": 1,
    "max_prefill_tokens": 1,
    "max_step_tokens": 1,
    "score_batch": 1,
    "score_wait_steps": 0,
    "num_threads": 1,
    "max_text_tokens": 1,
    "max_read_tokens": 1,
    "num_watches": 1,
    "max_watch_tokens": 1,
    "watch_max_pending": 1,
}

_CUDA_SCORE_BUDGET = 0.015
"""Seconds: some seven explanations at the 7B shape (2 ms each at 85% of an H200's rate), about what
the host needs to launch them. An estimate: no GPU was at hand."""


class ConfigError(GlossError, ValueError):
    """A setting that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one engine.

    Attributes:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".
        dtype: "auto" (float32 on a CPU, bfloat16 on CUDA), or a name in DTYPES.
        quantization: "none", or "fp8": the blocks' linear layers in 8 bits, the rest in `dtype`.
        kernels: "auto" (triton on CUDA, the reference elsewhere), or one of both by name.
        injection_mode: "replace" the marker's embedding, or "add" to the output of block 1.
        num_slots: most sequences that run at once.
        page_size: tokens of a page; None: a sequence's whole limit on a CPU, where one page each
            lets attention read the cache in place, and 16 elsewhere.
        num_pages: private pages; None: enough for every slot at its longest, on CUDA as many of
            them as the memory holds.
        memory_fraction: share of a CUDA device's memory that may be in use once pages are made.
        max_new_tokens: most tokens a request may ask for.
        max_prefill_tokens: most suffix tokens prefilled in one step.
        max_step_tokens: most rows of a step, of decoding and of prefills, while sequences run: it
            bounds how long those wait for a prefill. None: on CUDA two for each slot, elsewhere
            no bound.
        graphs: "on": steps have one of a few sizes, and on CUDA a graph each, but for those of the
            reference, which asks the device between its operations; "off": steps have the rows
            they need; "auto": on for the kernels on CUDA.
        lag: 1: a step is launched before the one before is read; 0: each is read at once; None: 1
            on CUDA, else 0.
        batch_invariant: what a sequence draws never depends on what else runs: every step has all
            slots' rows, and suffixes are prefilled one by one. Slower.
        score_batch: texts the AR scores at once, and the most between two decode steps.
        score_wait_steps: steps a text waits at most for a batch to fill.
        score_budget_ms: about how long the AR may run between two decode steps; None: 15 on CUDA,
            elsewhere a whole batch goes.
        fve_baseline: used where the AR's and AV's sidecars name none.
        num_threads: CPU threads; None leaves torch's setting.
        target_generates: whether a target is loaded whole, as Watch needs it, or up to block K.
        target_share: share of step time that the target gets while explanations run, between 0 and
            1. It bounds how long either waits for the other.
        max_text_tokens: most tokens of a text that the target reads.
        max_read_tokens: most tokens the target reads in one pass; a longer text takes several.
        read_budget_ms: about how long a pass of the target may take while a Watch runs: texts are
            then read in smaller chunks.
        num_watches: most sequences the target generates at once.
        max_watch_tokens: most tokens of one of them.
        watch_max_pending: most unfinished activations of a Watch that states no bound.
        batch_share: share of what is done while both priorities wait that goes to batch, between 0
            and 1: of starts for activations, of tokens for texts that the target reads.
    """

    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    kernels: str = "auto"
    injection_mode: str = "replace"
    num_slots: int = 256
    page_size: int | None = None
    num_pages: int | None = None
    memory_fraction: float = 0.9
    max_new_tokens: int = 200
    max_prefill_tokens: int = 2048
    max_step_tokens: int | None = None
    graphs: str = "auto"
    lag: int | None = None
    batch_invariant: bool = False
    score_batch: int = 64
    score_wait_steps: int = 16
    score_budget_ms: float | None = None
    fve_baseline: float | None = None
    num_threads: int | None = None
    target_generates: bool = True
    target_share: float = 0.5
    max_text_tokens: int = 4096
    max_read_tokens: int = 2048
    read_budget_ms: float = 25.0
    num_watches: int = 8
    max_watch_tokens: int = 1024
    watch_max_pending: int = 64
    batch_share: float = 0.125

    def __post_init__(self) -> None:
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        _one_of("dtype", self.dtype, ("auto", *DTYPES))
        _one_of("quantization", self.quantization, QUANTIZATIONS)
        _one_of("kernels", self.kernels, ("auto", *BACKENDS))
        _one_of("injection_mode", self.injection_mode, INJECTION_MODES)
        _one_of("graphs", self.graphs, ("auto", "on", "off"))
        if self.batch_invariant and self.graphs == "off":
            raise ConfigError(
                "graphs: got off beside batch_invariant, whose steps have one size and so a graph; "
                "expected auto or on"
            )
        if self.lag not in (None, 0, 1) or isinstance(self.lag, bool):
            raise ConfigError(f"lag: got {self.lag!r}, expected 0, 1 or none")
        if not (_is_number(self.memory_fraction) and 0 < self.memory_fraction <= 1):
            raise ConfigError(
                f"memory_fraction: got {self.memory_fraction!r}, expected more than 0, at most 1"
            )
        for name in ("target_share", "batch_share"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < 1):
                raise ConfigError(f"{name}: got {value!r}, expected more than 0, less than 1")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise ConfigError(
                    f"{name}: got {value!r}, expected a whole number, {least} or more"
                )
        for name in ("score_budget_ms", "read_budget_ms", "fve_baseline"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise ConfigError(f"{name}: got {value!r}, expected more than 0 and finite")

    def resolve_device(self) -> torch.device:
        """The device to run on.

        Raises:
            ConfigError: "cuda" where torch sees none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device: got cuda, but torch sees no CUDA device; use cpu or auto")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def resolve_dtype(self) -> torch.dtype:
        """The dtype of weights and keys."""
        if self.dtype == "auto":
            return torch.float32 if self.resolve_device().type == "cpu" else torch.bfloat16
        return DTYPES[self.dtype]

    def operations(self) -> Operations:
        """The operations to run with.

        Raises:
            ConfigError: kernels on a machine that cannot run them.
        """
        on_cuda, backend = self.resolve_device().type == "cuda", self._backend()
        if backend == "triton" and find_spec("triton") is None:
            raise ConfigError(
                "kernels: triton is not installed; install gloss-nla[server] on Linux, or set "
                "kernels to reference, which is slow on a GPU"
            )
        operations = Operations(backend)
        if backend == "triton" and not on_cuda and not operations.interpreted:
            raise ConfigError(
                "kernels: got triton on a CPU, expected reference (or the interpreter, by "
                "TRITON_INTERPRET=1 in the environment: thousands of times slower)"
            )
        return operations

    def _backend(self) -> str:
        """The name of the operations."""
        if self.kernels != "auto":
            return self.kernels
        return "triton" if self.resolve_device().type == "cuda" else "reference"

    def resolve_lag(self) -> int:
        """Steps launched before the oldest is read."""
        if self.lag is not None:
            return self.lag
        return int(self.resolve_device().type == "cuda")

    @property
    def max_score_tokens(self) -> int:
        """Most tokens the AR runs at once, but for a single longer text: a full batch's."""
        return self.score_batch * (self.max_new_tokens + AR_TAIL_TOKENS)

    def resolve_score_budget(self) -> float | None:
        """Seconds that the AR may run between two decode steps, or None."""
        if self.score_budget_ms is not None:
            return self.score_budget_ms / 1e3
        return _CUDA_SCORE_BUDGET if self.resolve_device().type == "cuda" else None

    def resolve_max_step_tokens(self) -> int | None:
        """Most rows of a step while sequences run, or None."""
        if self.max_step_tokens is None and self.resolve_device().type == "cuda":
            return 2 * self.num_slots
        return self.max_step_tokens

    def resolve_capture_places(self) -> int:
        """Rows of the AV's prefill buffer for captured activations that wait to start."""
        return 2 * self.num_slots

    def step_sizes(self, num_slots: int, max_prefills: int, max_private_len: int) -> StepSizes:
        """The sizes of steps.

        Args:
            num_slots: of the AV or of the target, whose steps they are.
            max_prefills: most suffixes of one step.
            max_private_len: most private keys of a sequence.
        """
        captures = self.resolve_device().type == "cuda" and self._backend() == "triton"
        if self.graphs == "on" or self.batch_invariant or (self.graphs == "auto" and captures):
            return StepSizes.listed(
                num_slots, max_prefills, max_private_len, one=self.batch_invariant
            )
        return StepSizes.exact()

    def resolve_page_size(self, suffix_len: int) -> int:
        """Tokens of a page, for a prompt with `suffix_len` private tokens."""
        if self.page_size is not None:
            return self.page_size
        whole = suffix_len + self.max_new_tokens - 1
        return whole if self.resolve_device().type == "cpu" else 16


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(name: str, got: str, expected: tuple[str, ...]) -> None:
    if got not in expected:
        raise ConfigError(f"{name}: got {got!r}, expected one of {', '.join(expected)}")
