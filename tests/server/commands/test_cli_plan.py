"""`gloss plan`: pairs by name, directories without weights, what does not fit, the document."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gloss_engine.released import RELEASED_PAIRS
from support.checkpoints import Pair, write_ar, write_target
from support.command_runs import Command
from support.edits import edit_json, edit_sidecar

PAGE = Path(__file__).parents[3] / "docs" / "capacity.md"
CONFIGURATION = ("config.json", "nla_meta.yaml")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture
def planned(gloss: Command) -> Callable[..., dict[str, Any]]:
    """Runs `gloss plan --json`, of 141 GB unless the arguments say otherwise."""

    def call(*arguments: object, status: int = 0) -> dict[str, Any]:
        ended = gloss("plan", "--json", "--memory", 141, *arguments)
        assert (ended.status, ended.stderr) == (status, "")
        return dict(json.loads(ended.stdout))

    return call


def without_weights(source: Path, directory: Path, *names: str) -> Path:
    """A copy of the named files alone."""
    directory.mkdir()
    for name in names:
        if (source / name).exists():
            shutil.copy(source / name, directory)
    return directory


def test_a_pair_by_name(gloss: Command, planned: Callable[..., dict[str, Any]]) -> None:
    plan = planned("--pair", "Qwen2.5-7B")
    assert plan["fits"] and plan["num_sequences"] == 256
    assert plan["parts"]["AV weights"] == pytest.approx(15.23e9, rel=1e-3)
    assert plan["floor"]["explanations_per_second"] == pytest.approx(371, rel=2e-3)
    assert plan["floor"]["scored_explanations_per_second"] == pytest.approx(232, rel=2e-3)
    page = gloss("plan", "--pair", "qwen2.5-7b", "--memory", 141)
    assert (page.status, page.stderr) == (0, "")
    squeezed = " ".join(page.stdout.split())
    for text in ("AV weights 15.2", "a second 371 259", "one alone 395 ms", "not a measurement"):
        assert text in squeezed
    assert "125 tokens, 100 of them shared" in squeezed and "Does not fit" not in squeezed


def test_options_reach_the_plan(planned: Callable[..., dict[str, Any]]) -> None:
    plan = planned(
        *("--pair", "qwen2.5-7b", "--quantization", "fp8", "--memory", 80),
        *("--memory-fraction", 0.5, "--max-new-tokens", 40, "--batch", 64, "--dtype", "float16"),
    )
    assert (plan["dtype"], plan["quantization"]) == ("float16", "fp8")
    assert plan["usable_bytes"] == 40 * 10**9 and plan["num_sequences"] == 64
    assert plan["sequence_pages"] == 4 and plan["floor"]["explanation_tokens"] == 40
    assert plan["num_pages"] == 64 * 4 + 2 + 1


def test_float32_has_no_floor(gloss: Command, planned: Callable[..., dict[str, Any]]) -> None:
    plan = planned("--pair", "qwen2.5-7b", "--dtype", "float32")
    assert plan["floor"] is None and plan["parts"]["AV weights"] > 30e9
    page = gloss("plan", "--pair", "qwen2.5-7b", "--dtype", "float32", "--memory", 141)
    assert "No floor" in page.stdout


def test_a_pair_that_does_not_fit(gloss: Command, planned: Callable[..., dict[str, Any]]) -> None:
    plan = planned("--pair", "llama-3.3-70b", status=1)
    assert not plan["fits"] and plan["most_sequences"] == 0 and plan["floor"] is None
    assert plan["missing_bytes"] == plan["total_bytes"] - plan["usable_bytes"] > 100e9
    assert plan["remedies"] == ["--quantization fp8"]
    too_much = f"Does not fit: {plan['missing_bytes'] / 1e9:.1f} GB too much for 1 at once"
    page = gloss("plan", "--pair", "llama-3.3-70b", "--memory", 141)
    assert (page.status, page.stderr) == (1, "")
    for text in (too_much, "--quantization fp8", "several GPUs is not supported"):
        assert text in page.stdout
    tiny = gloss("plan", "--pair", "llama-3.3-70b", "--memory", 24)
    assert tiny.status == 1 and "needs a larger GPU" in tiny.stdout
    batch = gloss("plan", "--pair", "qwen2.5-7b", "--memory", 48, "--batch", 5000)
    assert batch.status == 1 and "Fits with --batch" in batch.stdout


@pytest.mark.parametrize("width", [60, 100])
def test_the_page_keeps_its_width(
    gloss: Command, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    ended = gloss("plan", "--pair", "gemma-3-27b", "--quantization", "fp8", "--memory", 141)
    lines = ended.stdout.splitlines()
    assert max(map(len, lines)) <= width and all(line == line.rstrip() for line in lines)
    assert "1,350" in ended.stdout and "assumed" in ended.stdout


def test_configurations_suffice(
    planned: Callable[..., dict[str, Any]], small_pair: Pair, tmp_path: Path
) -> None:
    av = without_weights(small_pair.av, tmp_path / "av", *CONFIGURATION)
    ar = without_weights(small_pair.ar, tmp_path / "ar", *CONFIGURATION)
    plan = planned("--av", av, "--ar", ar)
    assert (plan["prompt_tokens"], plan["shared_tokens"]) == (125, 100)
    assert len(plan["notes"]) == 2
    assert all(note.startswith("Assumed") and "tokenizer.json" in note for note in plan["notes"])
    assert {"AV weights", "AR weights and value head"} <= plan["parts"].keys()


def test_a_tokenizer_counts_the_prompt(
    planned: Callable[..., dict[str, Any]], small_pair: Pair, tmp_path: Path
) -> None:
    names = (*CONFIGURATION, *TOKENIZER)
    av = without_weights(small_pair.av, tmp_path / "av", *names)
    ar = without_weights(small_pair.ar, tmp_path / "ar", *names)
    plan = planned("--av", av, "--ar", ar)
    assert plan["notes"] == []
    assert plan["prompt_tokens"] not in (0, 125) and plan["shared_tokens"] < plan["prompt_tokens"]
    assert "AR weights and value head" not in planned("--av", av)["parts"]


def test_a_target_is_whole_with_pages_of_its_own(
    planned: Callable[..., dict[str, Any]], small_pair: Pair, tmp_path: Path
) -> None:
    target = write_target(tmp_path / "target", "qwen2")
    plan = planned("--av", small_pair.av, "--target", target)
    (note,) = plan["notes"]
    assert "pages for 8 Watches of 512 tokens" in note and "blocks 0 to 3" in note
    assert plan["parts"]["target weights"] < plan["parts"]["AV weights"]
    # Six blocks of two heads of 12, keys and values, in 16 bits.
    assert plan["parts"]["target pages"] == 8 * 512 * 6 * 2 * 2 * 12 * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "got nothing to plan, expected --av DIR"),
        (("--ar", "x"), "got --ar, expected --av DIR"),
        (("--pair", "gpt-2"), "got 'gpt-2', expected one of qwen2.5-7b, gemma-3-12b, gemma-3-27b"),
        (("--pair", "qwen2.5-7b", "--av", "x"), "got --pair and --av, expected one of both"),
        (("--pair", "qwen2.5-7b", "--memory", 0), "--memory: got 0, expected GB, more than 0"),
        (("--pair", "qwen2.5-7b", "--memory", "nan"), "--memory: got nan"),
        (("--pair", "qwen2.5-7b", "--memory-fraction", 1.1), "--memory-fraction: got 1.1"),
        (("--pair", "qwen2.5-7b", "--dtype", "int4"), "--dtype: got 'int4', expected one of auto"),
        (("--pair", "qwen2.5-7b", "--quantization", "int8"), "expected one of none, fp8"),
        (("--pair", "qwen2.5-7b", "--batch", 0), "'--batch'"),
        (("--pair", "qwen2.5-7b", "--max-new-tokens", 99999), "use at most 32643"),
        (("--av", "nowhere"), "nowhere/config.json: got FileNotFoundError"),
    ],
)
def test_refusals(gloss: Command, arguments: tuple[object, ...], said: str) -> None:
    ended = gloss("plan", *arguments)
    assert ended.status == 2 and said in ended.error


def test_directories_that_do_not_hold_together(
    gloss: Command, small_pair: Pair, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    broken = without_weights(small_pair.av, tmp_path / "broken", *CONFIGURATION)
    (broken / "config.json").write_text("{")
    no_sidecar = without_weights(small_pair.av, tmp_path / "plain", "config.json")
    odd = without_weights(small_pair.av, tmp_path / "odd", *CONFIGURATION)
    edit_json(odd / "config.json", lambda config: config.update(model_type="mamba"))
    for directory, said in (
        (broken, "JSONDecodeError"),
        (no_sidecar, "nla_meta.yaml"),
        (odd, "'mamba', expected qwen2"),
        (small_pair.ar, "expected av"),
    ):
        ended = gloss("plan", "--av", directory)
        assert ended.status == 2 and said in ended.error
    other = pairs["llama3"]
    swapped = gloss("plan", "--av", small_pair.av, "--ar", small_pair.av)
    assert swapped.status == 2 and "expected ar" in swapped.error
    foreign = gloss("plan", "--av", small_pair.av, "--ar", other.ar)
    assert foreign.status == 2 and "d_model" in foreign.error
    shallow = write_target(tmp_path / "shallow", "qwen2", num_layers=3)
    for target, said in ((other.av, "expected the AV's 72"), (shallow, "more than K = 3")):
        ended = gloss("plan", "--av", small_pair.av, "--target", target)
        assert ended.status == 2 and said in ended.error
    nameless = without_weights(small_pair.av, tmp_path / "av", *CONFIGURATION, *TOKENIZER)
    edit_sidecar(nameless, lambda meta: meta.pop("extraction_layer_index"))
    ended = gloss("plan", "--av", nameless, "--target", other.av)
    assert ended.status == 2 and "hidden_size" in ended.error
    ended = gloss("plan", "--av", nameless, "--target", small_pair.av)
    assert ended.status == 2 and "expected the layer K" in ended.error
    ended = gloss("plan", "--av", small_pair.av, "--target", small_pair.av)
    assert ended.status == 2 and "got an AV" in ended.error
    deeper = write_ar(tmp_path / "deeper", "qwen2", layer_index=2)
    ended = gloss("plan", "--av", small_pair.av, "--ar", deeper)
    assert ended.status == 2 and "layer K" in ended.error


def test_what_the_engine_would_refuse_is_no_plan(
    gloss: Command, small_pair: Pair, tmp_path: Path
) -> None:
    """Widths that fp8 products do not take; a model shorter than its prompt."""
    ended = gloss("plan", "--av", small_pair.av, "--quantization", "fp8")
    assert ended.status == 2
    assert "hidden_size: got 72, expected a multiple of 16" in ended.error
    short = without_weights(small_pair.av, tmp_path / "short", *CONFIGURATION)
    edit_json(short / "config.json", lambda config: config.update(max_position_embeddings=100))
    ended = gloss("plan", "--av", short)
    assert ended.status == 2 and "got max_position_embeddings 100, expected room" in ended.error


def test_options_and_arithmetic_need_no_torch() -> None:
    program = "import sys, gloss_server.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_document_has_the_commands_figures(planned: Callable[..., dict[str, Any]]) -> None:
    rows = []
    for pair in RELEASED_PAIRS:
        for quantization in ("none", "fp8"):
            options = ("--pair", pair.short_name, "--quantization", quantization)
            fits = (pair.short_name, quantization) != ("llama-3.3-70b", "none")
            rows.append(document_row(pair.short_name, planned(*options, status=0 if fits else 1)))
    table = "\n".join(rows)
    assert table in PAGE.read_text(), f"docs/capacity.md should have\n{table}"


def document_row(name: str, plan: dict[str, Any]) -> str:
    """One line of the table of docs/capacity.md."""

    def gigabytes(number: float) -> str:
        return f"{number / 1e9:.1f}"

    parts, floor = plan["parts"], plan["floor"]
    linears = plan["quantization"] if plan["quantization"] != "none" else "bf16"
    weights = [gigabytes(parts[key]) for key in ("AV weights", "AR weights and value head")]
    if floor is None:
        room = [f"{gigabytes(plan['missing_bytes'])} too much", "0", "", "", "", ""]
    else:
        rates = [floor["explanations_per_second"], floor["scored_explanations_per_second"]]
        room = [
            gigabytes(plan["total_bytes"]),
            f"{plan['most_sequences']:,}",
            str(plan["num_sequences"]),
            *(f"{rate:.0f}" for rate in rates),
            f"{floor['single_ms']:,.0f}",
        ]
    return f"| {' | '.join([name, linears, *weights, *room])} |"
