"""An engine without a model, for measuring the front alone.

It keeps the engine's interface (`WorkerEngine`) and the form of its results: slots, steps at a set
pace, tokens of a byte-level BPE such as Qwen's, English prose between the tags, evidence. Every
explanation has the same number of tokens. Its results do not depend on the activations, and the
evidence comes with the last token, where a real one's comes some steps later.

    python benchmarks/fake_engine.py STEP_MS NUM_TOKENS FD     (the front adds FD, its socket)
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import count
from pydoc_data.topics import topics

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gloss_engine.errors import RequestError
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.request import (
    Explanation,
    StepOutput,
    TextRequest,
    TokenDelta,
    VerbalizeRequest,
)
from gloss_engine.stats import EngineStats
from gloss_engine.text_request import CaptureRequest, ExplainRequest, WatchRequest
from gloss_server.link.messages import Load
from gloss_server.worker import run_worker

D_MODEL = 3584
"""Qwen2.5 7B's: an activation has 14 KB."""
NUM_SLOTS = 256
_VOCAB_SIZE = 16384
_NUM_SCRIPTS = 64
_PREFIX_TOKENS, _SUFFIX_TOKENS = 100, 25


@dataclass(frozen=True, kw_only=True)
class Script:
    """What the engine says every time: an explanation that is known beforehand."""

    token_ids: tuple[int, ...]
    raw_text: str
    explanation: str


@dataclass(kw_only=True)
class _Sequence:
    request_id: str
    index: int
    sample: int
    seed: int
    is_streamed: bool
    script: Script
    num_tokens: int = 0


class FakeEngine:
    """Slots, steps and results without a model.

    Args:
        info: what it says it has loaded.
        scripts: what it says, in turn.
        step_seconds: from the end of a step to the end of the next.
    """

    def __init__(self, info: ModelInfo, scripts: list[Script], step_seconds: float) -> None:
        self.info: ModelInfo | None = info
        self._num_slots, self._scripts, self._step_seconds = info.num_slots, scripts, step_seconds
        self._numbers = count()
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._num_open: dict[str, int] = {}
        self._cancelled: set[str] = set()
        self._due = 0.0
        self._stats = EngineStats(pages_total=info.num_pages)

    @property
    def has_work(self) -> bool:
        """Whether another step would bring anything."""
        return bool(self._num_open)

    def warm_up(self) -> float:
        """Nothing to do."""
        return 0.0

    def submit(self, request: VerbalizeRequest, request_id: str | None = None) -> str:
        """Queue activations."""
        assert request_id is not None and request.sampling.seed is not None
        for index in range(len(request.activations)):
            for sample in range(request.num_samples):
                self._waiting.append(
                    _Sequence(
                        request_id=request_id,
                        index=index,
                        sample=sample,
                        seed=request.sampling.seed,
                        is_streamed=request.stream,
                        script=self._scripts[next(self._numbers) % len(self._scripts)],
                    )
                )
        self._num_open[request_id] = len(request.activations) * request.num_samples
        return request_id

    def submit_texts(self, request: TextRequest, request_id: str | None = None) -> str:
        """There is no AR."""
        raise RequestError("NO_RECONSTRUCTOR", "texts", "texts: the fake engine has no AR")

    def submit_explain(self, request: ExplainRequest, request_id: str | None = None) -> str:
        """There is no target."""
        raise _no_target()

    def submit_watch(self, request: WatchRequest, request_id: str | None = None) -> str:
        """There is no target."""
        raise _no_target()

    def submit_capture(self, request: CaptureRequest, request_id: str | None = None) -> str:
        """There is no target."""
        raise _no_target()

    def cancel(self, request_id: str) -> None:
        """Take a request out at the next step."""
        self._cancelled.add(request_id)

    def step(self) -> StepOutput:
        """One token for everything that runs, when the pace says so."""
        out = StepOutput()
        for request_id in self._cancelled & self._num_open.keys():
            self._leave(request_id, out)
        self._cancelled.clear()
        while self._waiting and len(self._running) < self._num_slots:
            sequence = self._waiting.popleft()
            self._running.append(sequence)
            out.started.append((sequence.request_id, sequence.index))
        out.num_rows = len(self._running)
        running = []
        for sequence in self._running:
            self._say(sequence, out)
            if sequence.num_tokens < len(sequence.script.token_ids):
                running.append(sequence)
            else:
                self._close(sequence, "closing_tag", out)
        self._running = running
        self._count(out)
        self._keep_pace()
        return out

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        return replace(
            self._stats,
            explanations=dict(self._stats.explanations),
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            pages_used=len(self._running),
        )

    def _say(self, sequence: _Sequence, out: StepOutput) -> None:
        """A sequence's next token."""
        token_id = sequence.script.token_ids[sequence.num_tokens]
        sequence.num_tokens += 1
        if sequence.is_streamed:
            out.tokens.append(
                TokenDelta(sequence.request_id, sequence.index, sequence.sample, token_id)
            )

    def _close(self, sequence: _Sequence, reason: str, out: StepOutput) -> None:
        """Hand a sequence's explanation out, and its request after the last."""
        script, is_whole = sequence.script, reason == "closing_tag"
        out.explanations.append(
            Explanation(
                request_id=sequence.request_id,
                index=sequence.index,
                sample=sequence.sample,
                seed=sequence.seed,
                explanation=script.explanation if is_whole else "",
                raw_text=script.raw_text if is_whole else "",
                token_ids=script.token_ids[: sequence.num_tokens],
                logprob=-0.7 * sequence.num_tokens,
                finish_reason=reason,
                cosine=0.87,
                mse=0.26,
                fve=0.74,
            )
        )
        counts = self._stats.explanations
        counts[reason] = counts.get(reason, 0) + 1
        self._num_open[sequence.request_id] -= 1
        if self._num_open[sequence.request_id] == 0:
            del self._num_open[sequence.request_id]
            out.finished.append(sequence.request_id)

    def _leave(self, request_id: str, out: StepOutput) -> None:
        leaving = [s for s in (*self._running, *self._waiting) if s.request_id == request_id]
        self._running = [s for s in self._running if s.request_id != request_id]
        self._waiting = deque(s for s in self._waiting if s.request_id != request_id)
        for sequence in leaving:
            self._close(sequence, "cancelled", out)

    def _count(self, out: StepOutput) -> None:
        stats = self._stats
        stats.num_steps += 1
        stats.decode_tokens += out.num_rows
        stats.prefill_tokens += len(out.started) * _SUFFIX_TOKENS
        stats.prefix_tokens_reused += len(out.started) * _PREFIX_TOKENS
        stats.scored += len(out.explanations)

    def _keep_pace(self) -> None:
        """Wait for the end of the step. What a step takes in Python is part of its time."""
        self._due += self._step_seconds
        now = time.monotonic()
        if self._due < now:
            # It was idle, or the machine cannot keep this pace: no step is made up for.
            self._due = now + self._step_seconds
        time.sleep(self._due - now)


def _no_target() -> RequestError:
    return RequestError("NO_TARGET", "input", "input: the fake engine has no target")


def prose() -> list[str]:
    """English text that every Python brings along: the paragraphs of its language reference."""
    joined = [" ".join(text.split()) for name, text in sorted(topics.items())]
    return [text for text in joined if len(text) > 1000]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_scripts(tokenizer: Tokenizer, texts: list[str], num_tokens: int) -> list[Script]:
    """Explanations of exactly `num_tokens` tokens."""
    closing = tokenizer.encode("\n</explanation>").ids
    scripts = []
    for text in texts[:_NUM_SCRIPTS]:
        opening = tokenizer.encode(f"<explanation>\n{text[:1000]}").ids
        token_ids = (*opening[: num_tokens - len(closing)], *closing)
        raw_text = tokenizer.decode(token_ids, skip_special_tokens=False)
        cut = raw_text.removeprefix("<explanation>").removesuffix("</explanation>")
        scripts.append(Script(token_ids=token_ids, raw_text=raw_text, explanation=cut.strip()))
    return scripts


def load_fake(order: Load, step_seconds: float, num_tokens: int) -> FakeEngine:
    """The fake engine of an order, whose checkpoints are not read."""
    texts = prose()
    tokenizer = train_tokenizer(texts)
    av = CheckpointInfo(
        architecture="qwen2",
        num_layers=28,
        d_model=D_MODEL,
        vocab_size=_VOCAB_SIZE,
        fingerprint="fake",
        template="",
    )
    info = ModelInfo(
        fingerprint="fake",
        av=av,
        ar=None,
        layer_index=20,
        injection_scale=150.0,
        injection_mode="replace",
        mse_scale=None,
        fve_baseline=1.0,
        baseline_source="setting",
        norm_median=None,
        min_position=None,
        prefix_tokens=_PREFIX_TOKENS,
        suffix_tokens=_SUFFIX_TOKENS,
        max_new_tokens=order.config["max_new_tokens"],
        num_slots=NUM_SLOTS,
        num_pages=NUM_SLOTS,
        device="none",
        dtype="none",
        quantization="none",
        kernels="none",
        batch_invariant=False,
        tokenizer=tokenizer.to_str(),
    )
    return FakeEngine(info, write_scripts(tokenizer, texts, num_tokens), step_seconds)


if __name__ == "__main__":
    step_seconds, num_tokens = float(sys.argv.pop(1)) / 1000, int(sys.argv.pop(1))
    sys.exit(run_worker(lambda order: load_fake(order, step_seconds, num_tokens)))
