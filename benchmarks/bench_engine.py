"""The engine against `transformers.generate`, on one machine in one process.

Two shapes, the same weights, threads, prompts and lengths on both sides:

embedded   the AV that ships with Gloss: activations as one request against `generate` in batches
           of 32, with stops (each side ends as it does in use) and without (equal lengths).
0.5b       a Qwen2 0.5B shape with random weights, 16 activations at once, a prompt of 125 tokens
           of which 100 are shared, 120 new tokens, stops off. Its bounds are the matrix products
           of the suffixes and of the decode steps alone: with torch's `F.linear`, and with the
           engine's own packed layers, which are about three times as fast.

    python benchmarks/bench_engine.py [--shape embedded|0.5b|all] [--threads N] [--smoke]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import alternate, machine, table, write_result
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from gloss_engine import Engine, EngineConfig, SamplingParams, VerbalizeRequest
from gloss_engine.av.explanation import Extract
from gloss_engine.av.verbalizer import ExplanationReader, Verbalizer
from gloss_engine.facts import ModelFacts
from gloss_engine.loading import machinery
from gloss_engine.models.decoder import Decoder
from gloss_engine.models.registry import spec_from_config
from gloss_engine.program import AvProgram
from gloss_kernels import Operations, scale_to_norm

COLUMNS = (
    *("shape", "contender", "explanations", "tokens", "seconds", "per_second"),
    *("ratio", "of_plain", "of_packed"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape, loaded on both sides.

    Attributes:
        model: the transformers model; decoder, program: the engine's side of the same weights.
        prompt_ids: [prompt_len] int64 with the marker at `marker_position`.
    """

    model: Any
    decoder: Decoder
    program: AvProgram
    prompt_ids: Tensor
    marker_position: int

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.decoder.spec.d_model

    def engine(self, num_slots: int, max_new_tokens: int, stops: bool) -> Engine:
        """An engine on these weights."""
        program = self.program if stops else without_stops(self.program)
        config = EngineConfig(num_slots=num_slots, max_new_tokens=max_new_tokens)
        runner, scheduler = machinery(self.decoder, program, config)
        facts = ModelFacts(
            d_model=self.d_model,
            layer_index=None,
            prefix_len=self.marker_position,
            suffix_len=scheduler.suffix_len,
            max_new_tokens=max_new_tokens,
        )
        return Engine(runner, scheduler, NoText(), facts)


class NoText(ExplanationReader):
    """Reads nothing: `generate` returns ids too."""

    def __init__(self) -> None:
        super().__init__(tokenizer=None, eos_ids=frozenset())

    def read(self, token_ids: list[int]) -> tuple[str, Extract]:
        """Empty text."""
        return "", Extract(text="", has_opening=True, has_closing=True)


def without_stops(program: AvProgram) -> AvProgram:
    """The same program with nothing that ends a sequence but its limit."""
    return AvProgram(
        suffix_ids=program.suffix_ids,
        prefix=program.prefix,
        injection_scale=program.injection_scale,
        injection_mode=program.injection_mode,
        stop_table=torch.zeros_like(program.stop_table),
        is_eos=torch.zeros_like(program.is_eos),
    )


def embedded_case() -> Case:
    """The AV that ships with Gloss."""
    from gloss_server.embedded import embedded_pair

    directory = embedded_pair().av
    verbalizer = Verbalizer(directory, EngineConfig(device="cpu"))
    return Case(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval(),
        decoder=verbalizer.decoder,
        program=verbalizer.program,
        prompt_ids=torch.tensor(verbalizer.prompt.ids),
        marker_position=verbalizer.prompt.marker_position,
    )


def half_billion_case(smoke: bool) -> Case:
    """A Qwen2 0.5B shape with random weights; `smoke` keeps its form and shrinks it."""
    shape = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    if smoke:
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    config = Qwen2Config(
        **shape,
        num_attention_heads=14 if not smoke else 2,
        num_key_value_heads=2,
        vocab_size=151936 if not smoke else 1000,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    decoder = Decoder(
        spec_from_config(config),
        max_positions=512,
        operations=Operations("reference"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    weights = dict(model.named_parameters())
    with torch.inference_mode():
        for name, target in decoder.targets().items():
            target.copy_(weights[name])
        decoder.pack()
        ids = torch.randint(config.vocab_size, (125,))
        prefix = decoder.compute_prefix(ids[:100])
    program = AvProgram(
        suffix_ids=ids[100:],
        prefix=prefix,
        injection_scale=10.0,
        injection_mode="replace",
        stop_table=torch.zeros(2, config.vocab_size, dtype=torch.uint8),
        is_eos=torch.zeros(config.vocab_size, dtype=torch.bool),
    )
    return Case(model=model, decoder=decoder, program=program, prompt_ids=ids, marker_position=100)


def run_engine(engine: Engine, activations: Tensor, new_tokens: int, temperature: float) -> int:
    """Explain all activations as one request; returns the tokens generated."""
    sampling = SamplingParams(temperature=temperature, max_new_tokens=new_tokens, seed=1)
    request = VerbalizeRequest(activations=activations, sampling=sampling)
    return sum(len(explanation.token_ids) for explanation in engine.verbalize(request))


@torch.inference_mode()
def run_transformers(
    case: Case,
    activations: Tensor,
    batch_size: int,
    new_tokens: int,
    temperature: float,
    eos_ids: list[int] | None,
) -> int:
    """What a notebook runs: `generate` on embedded prompts, batch by batch."""
    embedding = case.model.get_input_embeddings()
    total = 0
    for start in range(0, len(activations), batch_size):
        rows = activations[start : start + batch_size]
        ids = case.prompt_ids.expand(len(rows), -1)
        embeds = embedding(ids).clone()
        embeds[:, case.marker_position] = scale_to_norm(rows, case.program.injection_scale)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        out = case.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=None if eos_ids else new_tokens,
            repetition_penalty=1.0,
            eos_token_id=eos_ids,
            pad_token_id=0,
            **sampling,
        )
        total += _generated(out, eos_ids)
    return total


def _generated(out: Tensor, eos_ids: list[int] | None) -> int:
    """Tokens up to and with each row's first end of sequence."""
    if not eos_ids:
        return out.numel()
    ended = torch.isin(out, torch.tensor(eos_ids)).int()
    return int(((ended.cumsum(1) - ended) == 0).sum())


@torch.inference_mode()
def matrix_products(case: Case, n: int, new_tokens: int, packed: bool) -> Callable[[], None]:
    """The products that no engine can do without: suffixes once, then every decode step.

    Args:
        packed: with the engine's linear layers; else with the transformers model's own, which are
            `F.linear` on plain weights.
    """
    assert case.decoder.head is not None
    if packed:
        layers: list[Callable[[Tensor], Tensor]] = [
            linear for block in case.decoder.blocks for linear in block.linears
        ]
        head: Callable[[Tensor], Tensor] = case.decoder.head
        widths = [linear.in_features for block in case.decoder.blocks for linear in block.linears]
    else:
        modules = [m for m in case.model.model.modules() if isinstance(m, torch.nn.Linear)]
        layers, head = list(modules), case.model.lm_head
        widths = [module.in_features for module in modules]
    many = n * case.program.suffix_ids.shape[0]
    inputs = {
        (count, width): torch.randn(count, width) for count in (many, n) for width in set(widths)
    }

    @torch.inference_mode()
    def run() -> None:
        for count in (many, *[n] * (new_tokens - 1)):
            for layer, width in zip(layers, widths, strict=True):
                layer(inputs[count, width])
            head(inputs[n, case.d_model])

    return run


def bench_embedded(smoke: bool) -> list[dict[str, Any]]:
    """The shipped AV, with and without stops, greedy and drawn."""
    case = embedded_case()
    n, new_tokens, repeats = (64, 8, 1) if smoke else (1024, 48, 5)
    activations = torch.randn(n, case.d_model, generator=torch.Generator().manual_seed(0))
    eos_ids = case.program.is_eos.nonzero().squeeze(1).tolist()
    rows = []
    for stops in (False, True):
        tokens: dict[str, int] = {}
        engine = case.engine(num_slots=256, max_new_tokens=new_tokens, stops=stops)

        def ours(engine: Engine = engine, tokens: dict[str, int] = tokens) -> None:
            tokens["engine"] = run_engine(engine, activations, new_tokens, 1.0)

        def theirs(stops: bool = stops, tokens: dict[str, int] = tokens) -> None:
            tokens["transformers, batch 32"] = run_transformers(
                case, activations, 32, new_tokens, 1.0, eos_ids if stops else None
            )

        timings = alternate({"engine": ours, "transformers, batch 32": theirs}, repeats)
        label = f"embedded, {'stops' if stops else 'stops off'}"
        rows += _rows(label, n, tokens, timings)
    return rows


def bench_half_billion(smoke: bool) -> list[dict[str, Any]]:
    """The 0.5B shape against transformers and against its bound."""
    case = half_billion_case(smoke)
    n, new_tokens, repeats = (4, 6, 1) if smoke else (16, 120, 3)
    activations = torch.randn(n, case.d_model, generator=torch.Generator().manual_seed(0))
    tokens: dict[str, int] = {}
    engine = case.engine(num_slots=n, max_new_tokens=new_tokens, stops=False)

    def ours() -> None:
        tokens["engine"] = run_engine(engine, activations, new_tokens, 1.0)

    def theirs() -> None:
        tokens["transformers"] = run_transformers(case, activations, n, new_tokens, 1.0, None)

    packed, plain = "products alone, packed", "products alone, F.linear"
    contenders = {
        "engine": ours,
        packed: matrix_products(case, n, new_tokens, packed=True),
        plain: matrix_products(case, n, new_tokens, packed=False),
        "transformers": theirs,
    }
    timings = alternate(contenders, repeats)
    tokens[packed] = tokens[plain] = n * new_tokens
    return _rows("0.5b", n, tokens, timings)


def _rows(
    shape: str, n: int, tokens: dict[str, int], timings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Result rows; ratios are medians of the pairwise ratios, so that drift cancels."""
    rows = []
    for name, timing in timings.items():
        row: dict[str, Any] = {
            "shape": shape,
            "contender": name,
            "explanations": n,
            "tokens": tokens[name],
            "seconds": timing.median,
            "per_second": timing.per_second(n),
            "runs": [round(run, 4) for run in timing.runs],
        }
        if name == "engine":
            peer = next(t for other, t in timings.items() if other.startswith("transformers"))
            row["ratio"] = _median_ratio(peer.runs, timing.runs)
            bounds = {other: t for other, t in timings.items() if other.startswith("products")}
            for other, bound in bounds.items():
                column = "of_packed" if other.endswith("packed") else "of_plain"
                row[column] = _median_ratio(bound.runs, timing.runs)
        rows.append(row)
    return rows


def _median_ratio(numerators: tuple[float, ...], denominators: tuple[float, ...]) -> float:
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    return ratios[len(ratios) // 2]


def main() -> None:
    """Run the chosen shapes, print a table, write results/engine.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("embedded", "0.5b", "all"), default="all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    if arguments.shape in ("embedded", "all"):
        rows += bench_embedded(arguments.smoke)
    if arguments.shape in ("0.5b", "all"):
        rows += bench_half_billion(arguments.smoke)
    print(table(rows, COLUMNS))
    print(f"{machine()}\n{time.perf_counter() - started:.0f} s, {arguments.threads} threads")
    if not arguments.smoke:
        command = f"python benchmarks/bench_engine.py --shape {arguments.shape}"
        command += f" --threads {arguments.threads}"
        print(write_result("engine", command, rows))


if __name__ == "__main__":
    main()
