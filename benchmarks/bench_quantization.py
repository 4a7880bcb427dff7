"""What fp8 linear layers cost a checkpoint: logits, explanations, vectors, against float32.

logits        the float32 AV explains activations greedily; every setting is given those tokens.
              error = ||logits - logits_float32|| / ||logits_float32||, both without their mean over
              the vocabulary, over all generated positions together; the divergence in nats; the
              share of positions whose likeliest token is the same.
explanations  drawn with the same seeds on both sides, each scored by the AR of its own setting:
              mean FVE, and what it is below float32's, with the standard error over activations.
vectors       the AR alone: float32's explanations scored by the AR of the setting.

    python benchmarks/bench_quantization.py [--smoke]                 # the embedded pair
    python benchmarks/bench_quantization.py --av DIR [--ar DIR] --activations FILE

On CUDA the settings are bfloat16 with and without fp8; on a CPU, where all arithmetic but fp8's own
rounding is float32's, fp8 alone. One checkpoint at a time is in memory.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, table, write_result
from torch import Tensor

from gloss_engine import EngineConfig, Explanation, SamplingParams, VerbalizeRequest, load_engine
from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.ar.scorer import Scorer
from gloss_engine.av.verbalizer import Verbalizer
from gloss_engine.models.batch import ForwardBatch
from gloss_engine.prefill_buffer import PrefillBuffer
from gloss_kernels import PackedPlan

_ITEMS_AT_ONCE = 16
COLUMNS = (
    *("setting", "activations", "positions", "logit_error", "divergence_nats", "same_top_token"),
    *("explanations", "same_tokens", "fve", "fve_cost", "fve_cost_se", "ar_fve_cost"),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is measured.

    Attributes:
        av, ar: checkpoint directories.
        activations: [n, d_model] float32.
        num_forced: how many of them the logits are compared on.
        num_samples: explanations of each.
    """

    av: Path
    ar: Path | None
    activations: Tensor
    num_forced: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one setting makes of a pair.

    Attributes:
        logits: [num_positions, vocab_size] float32 at the generated positions, on the CPU.
        explanations: by activation and sample.
        scored: FVE of float32's explanations by this setting's AR, NaN without one.
    """

    logits: Tensor
    explanations: list[Explanation]
    scored: Tensor


def explain(
    pair: Pair, config: EngineConfig, activations: Tensor, **sampling: Any
) -> list[Explanation]:
    """Every explanation of the activations, in order."""
    request = VerbalizeRequest(
        activations=activations,
        num_samples=1 if sampling.get("temperature") == 0.0 else pair.num_samples,
        sampling=SamplingParams(max_new_tokens=config.max_new_tokens, **sampling),
    )
    return load_engine(pair.av, pair.ar, config).verbalize(request)


@torch.inference_mode()
def forced_logits(pair: Pair, config: EngineConfig, tokens: list[tuple[int, ...]]) -> Tensor:
    """Logits that precede each of the given tokens, [num_positions, vocab_size] on the CPU."""
    verbalizer = Verbalizer(pair.av, config)
    decoder, program = verbalizer.decoder, verbalizer.program
    device, suffix = decoder.device, program.suffix_ids.tolist()
    start = 0 if program.prefix is None else len(program.prefix)
    rows = []
    for first in range(0, len(tokens), _ITEMS_AT_ONCE):
        given = tokens[first : first + _ITEMS_AT_ONCE]
        lengths = [len(suffix) + len(row) - 1 for row in given]
        ends = torch.tensor([0, *lengths], device=device).cumsum(0)
        ids = torch.tensor([t for row in given for t in [*suffix, *row[:-1]]], device=device)
        packed = PackedPlan(ends, num_tokens=len(ids), max_seqlen=max(lengths))
        within = torch.arange(len(ids), device=device) - packed.starts
        batch = ForwardBatch(positions=within + start, packed=packed, prefix=program.prefix)
        buffer = PrefillBuffer(decoder, program, max_prefills=len(given))
        places = torch.arange(len(given), device=device) + 1
        buffer.write(pair.activations[first : first + len(given)].to(device), places)
        hidden_states = decoder.embed(ids, ends[:-1], buffer.rows, places)
        hidden_states = decoder.forward(hidden_states, batch)[within >= len(suffix) - 1]
        rows.append(decoder.logits(hidden_states).float().cpu())
    return torch.cat(rows)


def run(
    pair: Pair,
    config: EngineConfig,
    tokens: list[tuple[int, ...]],
    exact: list[Explanation] | None = None,
) -> Outcome:
    """One setting, given the tokens and explanations of float32; None: this is float32."""
    logits = forced_logits(pair, config, tokens)
    explanations = explain(pair, config, pair.activations, seed=0)
    scored = torch.full((len(explanations),), torch.nan)
    if pair.ar is not None:
        texts = [each.explanation for each in exact or explanations]
        scored = _scored(pair.ar, config, texts, pair)
    return Outcome(logits=logits, explanations=explanations, scored=scored)


def _scored(ar: Path, config: EngineConfig, texts: list[str], pair: Pair) -> Tensor:
    reconstructor = Reconstructor.load(
        ar,
        operations=config.operations(),
        device=config.resolve_device(),
        dtype=config.resolve_dtype(),
        quantization=config.quantization,
    )
    scorer = Scorer(reconstructor, reconstructor.sidecar.fve_baseline)
    rows = pair.activations.repeat_interleave(pair.num_samples, 0)
    scores: list[float | None] = []
    for first in range(0, len(texts), 64):
        chunk = slice(first, first + 64)
        scores += [s and s.fve for s in scorer.score(texts[chunk], rows[chunk].to(config.device))]
    return _values(scores)


def compare(name: str, got: Outcome, exact: Outcome, pair: Pair) -> dict[str, Any]:
    """A row of the result."""
    centred = [rows - rows.mean(-1, keepdim=True) for rows in (got.logits, exact.logits)]
    logprobs = [rows.log_softmax(-1) for rows in (got.logits, exact.logits)]
    divergence = (logprobs[1].exp() * (logprobs[1] - logprobs[0])).sum(-1).mean()
    same = [
        a.token_ids == b.token_ids
        for a, b in zip(got.explanations, exact.explanations, strict=True)
    ]
    fve, exact_fve = (_values([e.fve for e in o.explanations]) for o in (got, exact))
    cost = (exact_fve - fve).view(-1, pair.num_samples).mean(1)
    return {
        "setting": name,
        "activations": len(pair.activations),
        "positions": len(got.logits),
        "logit_error": float((centred[0] - centred[1]).norm() / centred[1].norm()),
        "divergence_nats": float(divergence),
        "same_top_token": _share(got.logits.argmax(-1) == exact.logits.argmax(-1)),
        "explanations": len(same),
        "same_tokens": _share(torch.tensor(same)),
        "fve": _told(fve.mean()),
        "fve_cost": _told(cost.mean()),
        "fve_cost_se": _told(cost.std() / len(cost) ** 0.5),
        "ar_fve_cost": _told((exact.scored - got.scored).mean()),
    }


def _values(figures: list[float | None]) -> Tensor:
    """[n] float64; NaN where there is none."""
    return torch.tensor([torch.nan if f is None else f for f in figures], dtype=torch.float64)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _told(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None


def measure(pair: Pair, device: str) -> list[dict[str, Any]]:
    """Rows for float32 and for every setting beside it."""
    common: dict[str, Any] = {"device": device, "max_new_tokens": 120, "num_slots": 64}
    reference = EngineConfig(dtype="float32", **common)
    settings = {"float32 fp8": EngineConfig(dtype="float32", quantization="fp8", **common)}
    if device == "cuda":
        settings = {
            "bfloat16": EngineConfig(dtype="bfloat16", **common),
            "bfloat16 fp8": EngineConfig(dtype="bfloat16", quantization="fp8", **common),
        }
    greedy = explain(pair, reference, pair.activations[: pair.num_forced], temperature=0.0)
    tokens = [each.token_ids for each in greedy]
    exact = run(pair, reference, tokens)
    rows = [compare("float32", exact, exact, pair)]
    for name, config in settings.items():
        got = run(pair, config, tokens, exact.explanations)
        rows.append(compare(name, got, exact, pair))
    return rows


def read_pair(arguments: argparse.Namespace) -> Pair:
    """The pair and the activations that the command line names."""
    from gloss_server.embedded import embedded_pair
    from gloss_server.files.activation_file import open_activations

    embedded = embedded_pair()
    av, ar, path = embedded.av, embedded.ar, embedded.activations
    if arguments.av is not None:
        if arguments.activations is None:
            raise SystemExit("--av needs --activations FILE: explanations of noise say nothing")
        av, ar, path = arguments.av, arguments.ar, arguments.activations
    source = open_activations(path)
    needed = np.arange(source.num_rows) < (12 if arguments.smoke else arguments.limit)
    rows = np.concatenate([chunk.activations for chunk in source.chunks(needed, 256)])
    return Pair(
        av=av,
        ar=ar,
        activations=torch.from_numpy(rows),
        num_forced=4 if arguments.smoke else arguments.forced,
        num_samples=1 if arguments.smoke else arguments.samples,
    )


def main() -> None:
    """Measure, print a table, write results/quantization.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--av", type=Path, help="default: the embedded pair")
    parser.add_argument("--ar", type=Path)
    parser.add_argument("--activations", type=Path, help=".npy or .parquet")
    parser.add_argument("--limit", type=int, default=1000, help="most activations")
    parser.add_argument("--forced", type=int, default=256, help="activations for the logits")
    parser.add_argument("--samples", type=int, default=4, help="explanations of an activation")
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--output", type=Path, help="default: results/quantization.json")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = measure(read_pair(arguments), "cuda" if torch.cuda.is_available() else "cpu")
    print(table(rows, COLUMNS))
    print(machine())
    if arguments.output is not None or not arguments.smoke:
        command = " ".join(["python benchmarks/bench_quantization.py", *sys.argv[1:]])
        print(write_result("quantization", command, rows, arguments.output))


if __name__ == "__main__":
    main()
