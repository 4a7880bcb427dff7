"""The AR's vectors against transformers, text by text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gloss_engine.ar.reconstructor import Reconstructor
from gloss_engine.errors import RequestError
from gloss_kernels import Operations
from support.checkpoints import Pair, write_ar
from support.reference import ReferenceReconstructor

# Vectors of some ten units from four float32 blocks, summed in another order.
# Two of our own ways to the same vector may each be that far off.
TOLERANCE = 1e-4
TEXTS = [
    "The river froze in the north; a verb should follow.",
    "",
    "a",
    " leading and trailing space ",
    "{explanation} {0} {} {{braces}}",
    "the marker \u320e and \u33a1 and \u321c as text",
    "<|im_end|> <eos> <bos> are special",
    "</text> <summary>",
    "\u6cb3\u5ddd \u0301accent \U0001f600 caf\u00e9",
    "\n\nnew\nlines\n",
    "1987 and 42 " * 30,
    "In 1987 the council met 42 times, which nobody had expected. " * 6,
    ">> text >",
]


def _load(directory: Path) -> Reconstructor:
    return Reconstructor.load(
        directory,
        operations=Operations("reference"),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def _check(directory: Path, twin: Path | None = None) -> None:
    """Compare with transformers, which reads `twin` where it cannot load the directory itself."""
    reconstructor, reference = _load(directory), ReferenceReconstructor(twin or directory)
    vectors = reconstructor.reconstruct(TEXTS)
    expected = torch.stack([reference.vector(text) for text in TEXTS])
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors, expected, rtol=0, atol=TOLERANCE)
    nearest = (expected[:, None] - expected[None]).abs().amax(-1).fill_diagonal_(torch.inf).min()
    assert nearest > 100 * TOLERANCE, "texts cannot be told apart"


def test_vectors(pair: Pair) -> None:
    _check(pair.ar)


def test_value_head_with_a_bias_and_dummy_weights(arch: str, tmp_path: Path) -> None:
    twin = write_ar(tmp_path / "twin", arch, seed=6, bias=True)
    assert ReferenceReconstructor(twin).bias is not None
    _check(write_ar(tmp_path / "ar", arch, seed=6, bias=True, dummies=True), twin)


def test_wrapped_gemma(tmp_path: Path) -> None:
    _check(write_ar(tmp_path / "ar", "gemma3", seed=2, wrapped=True))


def test_a_text_is_the_same_alone_and_in_company(pair: Pair) -> None:
    reconstructor = _load(pair.ar)
    together = reconstructor.reconstruct(TEXTS)
    backwards = reconstructor.reconstruct(TEXTS[::-1]).flip(0)
    alone = torch.cat([reconstructor.reconstruct([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=0, atol=2 * TOLERANCE)
    torch.testing.assert_close(together, backwards, rtol=0, atol=2 * TOLERANCE)


def test_the_shared_prefix_changes_nothing(pair: Pair) -> None:
    """Prompts that share the template's prefix and prompts run whole give the same vectors."""
    reconstructor = _load(pair.ar)
    assert len(reconstructor.template.prefix_ids) > 3
    behind_prefix = reconstructor.reconstruct(TEXTS)
    spent = reconstructor.num_tokens
    reconstructor._prefix = None
    whole = reconstructor.reconstruct(TEXTS)
    torch.testing.assert_close(behind_prefix, whole, rtol=0, atol=2 * TOLERANCE)
    saved = len(TEXTS) * len(reconstructor.template.prefix_ids)
    prefix_once = len(reconstructor.template.prefix_ids)
    assert reconstructor.num_tokens - spent == spent - prefix_once + saved


def test_a_prompt_outside_the_prefix_among_others(pair: Pair) -> None:
    """A prompt that does not begin with the prefix is run whole, beside those that do."""
    reconstructor = _load(pair.ar)
    prompts = reconstructor.template.encode(TEXTS[:3])
    stranger = prompts[0][:2] + prompts[0][3:]
    assert not reconstructor.template.shares_prefix(stranger)
    mixed = reconstructor.reconstruct_ids([prompts[0], stranger, prompts[2]])
    apart = [reconstructor.reconstruct_ids([ids]) for ids in (prompts[0], stranger, prompts[2])]
    torch.testing.assert_close(mixed, torch.cat(apart), rtol=0, atol=2 * TOLERANCE)
    assert (mixed[0] - mixed[1]).abs().max() > 100 * TOLERANCE


def test_no_texts(pair: Pair) -> None:
    reconstructor = _load(pair.ar)
    assert reconstructor.reconstruct([]).shape == (0, reconstructor.decoder.spec.d_model)


def test_a_text_beyond_the_models_positions_is_refused(pairs: dict[str, Pair]) -> None:
    reconstructor = _load(pairs["qwen2"].ar)
    assert reconstructor.max_prompt_tokens == 512
    with pytest.raises(
        RequestError, match=r"texts\[1\]: got a prompt of \d+ tokens.*512"
    ) as caught:
        reconstructor.reconstruct(["short", "42 " * 600])
    assert caught.value.reason == "TEXT_TOO_LONG"
