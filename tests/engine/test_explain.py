"""Text in, explanations out: the target's activations are transformers', and explained as such."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gloss_engine.capture.positions import Positions
from gloss_engine.engine import Engine
from gloss_engine.errors import CheckpointError, RequestError
from gloss_engine.request import VerbalizeRequest
from gloss_engine.sampling import SamplingParams
from gloss_engine.text_request import CaptureRequest, ExplainRequest, TextInput, WatchRequest
from support.checkpoints import LAYER_INDEX, NUM_LAYERS, Pair, write_target
from support.edits import edit_weights
from support.engine_runs import assert_idle, small_engine
from support.target_reference import ReferenceTarget
from support.text_runs import Brought, assert_target_idle, ids, run, step, text_engine

# Four to six blocks in float32, summed in another order than transformers does; of a row's norm.
TOLERANCE = 1e-5
LONG = tuple((7 * i * i + 3) % 200 + 20 for i in range(75))


@pytest.fixture(scope="module")
def references(targets: dict[str, Path]) -> dict[str, ReferenceTarget]:
    return {arch: ReferenceTarget(path) for arch, path in targets.items()}


def _explain(given: TextInput, positions: str = "all", **options: Any) -> ExplainRequest:
    sampling = SamplingParams(**({"max_new_tokens": 6, "seed": 3} | options.pop("sampling", {})))
    return ExplainRequest(
        input=given, positions=Positions.parse(positions), sampling=sampling, **options
    )


def _capture(engine: Engine, *texts: TextInput, **options: Any) -> list[torch.Tensor]:
    engine.submit_capture(CaptureRequest(inputs=texts, **options), "c")
    readings = sorted(run(engine)["c"].readings, key=lambda reading: reading.index)
    assert all(reading.error is None for reading in readings)
    return [torch.from_numpy(reading.activations) for reading in readings]


def _assert_rows_close(rows: torch.Tensor, expected: torch.Tensor) -> None:
    assert rows.shape == expected.shape
    apart = (rows - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(apart.max()) < TOLERANCE


@pytest.mark.parametrize("layer", [0, LAYER_INDEX, NUM_LAYERS - 1])
@pytest.mark.parametrize("max_read_tokens", [16, 90, 2048])
def test_captured_rows_are_the_blocks_output(
    pairs: dict[str, Pair], targets: dict[str, Path], references: dict[str, ReferenceTarget],
    arch: str, layer: int, max_read_tokens: int,
) -> None:  # fmt: skip
    """Packed with others, alone, or in chunks behind its own keys; at the first, a middle and the
    last block, whose hidden_states entry would be normed."""
    engine = text_engine(pairs[arch].av, targets[arch], max_read_tokens=max_read_tokens)
    texts = [LONG[:1], LONG, LONG[5:17], LONG[:60]]
    found = _capture(engine, *(ids(*text) for text in texts), layer_index=layer)
    for text, rows in zip(texts, found, strict=True):
        expected = references[arch].activations(text, layer)
        _assert_rows_close(rows, expected)
    assert_target_idle(engine)


def test_an_explanation_is_that_of_the_captured_row(
    pairs: dict[str, Pair], targets: dict[str, Path], arch: str
) -> None:
    """Text by text equal to `submit` of the raw rows, with the position as the key of the draws."""
    pair = pairs[arch]
    engine = text_engine(pair.av, targets[arch], pair.ar, num_slots=3)
    text = LONG[:23]
    (rows,) = _capture(engine, ids(*text))
    chosen = (0, 4, 9, 21, 22)
    engine.submit_explain(_explain(ids(*text), "9,0,4,-1,21", num_samples=2, stream=True), "e")
    found = run(engine)["e"]
    request = VerbalizeRequest(
        activations=rows[list(chosen)], num_samples=2, item_keys=chosen, positions=chosen,
        token_ids=tuple(text[at] for at in chosen), layer_index=LAYER_INDEX,
        sampling=SamplingParams(max_new_tokens=6, seed=3),
    )  # fmt: skip
    expected = engine.verbalize(request)
    assert [opened.positions for opened in found.opened] == [chosen]
    assert found.opened[0].token_ids == text and found.num_finished == 1
    assert len(found.explanations) == len(expected) == 10
    for wanted in expected:
        got = found.explanations[wanted.index, wanted.sample]
        assert (got.token_ids, got.flags) == (wanted.token_ids, wanted.flags)
        assert got.cosine == pytest.approx(wanted.cosine, abs=1e-5)
        place = got.place
        assert place is not None and place.position == chosen[got.index]
        assert place.token_id == text[place.position] and place.layer_index == LAYER_INDEX
        assert place.norm == pytest.approx(float(rows[place.position].norm()), rel=1e-5)
        assert found.deltas[wanted.index, wanted.sample] == list(got.token_ids)
    assert [captured.place.position for captured in found.captured] == list(chosen)
    assert_idle(engine)
    assert_target_idle(engine)


def test_the_draws_do_not_depend_on_what_else_is_chosen(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    engine = text_engine(pairs["qwen3"].av, targets["qwen3"])
    engine.submit_explain(_explain(ids(*LONG[:12])), "all")
    engine.submit_explain(_explain(ids(*LONG[:12]), "7"), "one")
    found = run(engine)
    assert found["one"].explanations[0, 0].token_ids == found["all"].explanations[7, 0].token_ids


def test_texts_and_chats_are_encoded_as_transformers_does(
    pairs: dict[str, Pair], targets: dict[str, Path], references: dict[str, ReferenceTarget],
    arch: str,
) -> None:  # fmt: skip
    tokenizer = references[arch].tokenizer
    engine = text_engine(pairs[arch].av, targets[arch])
    turns = (("user", "hello there"), ("assistant", "fine"), ("user", "go on"))
    chat = [{"role": role, "content": content} for role, content in turns]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    engine.submit_explain(_explain(TextInput(text="hello there"), "last"), "text")
    engine.submit_explain(_explain(TextInput(messages=turns), "last"), "chat")
    found = run(engine)
    assert list(found["text"].opened[0].token_ids) == tokenizer("hello there")["input_ids"]
    expected = tokenizer.encode(rendered, add_special_tokens=False)
    assert list(found["chat"].opened[0].token_ids) == expected


def test_rows_without_a_direction_fail_alone(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """A row whose norm overflows among good ones, and a text whose only row is zero."""
    target = write_target(tmp_path / "target", "qwen3", seed=7)
    engine = text_engine(pairs["qwen3"].av, target, pairs["qwen3"].ar)
    assert engine.target is not None
    embedding = engine.target.target.decoder.embedding
    embedding[41], embedding[42] = 1e25, 0.0
    engine.submit_explain(_explain(ids(30, 31, 32, 41), num_samples=2), "e")
    engine.submit_explain(_explain(ids(42)), "zero")
    engine.submit_capture(CaptureRequest(inputs=(ids(30, 41), ids(31, 32))), "c")
    found = run(engine)
    errors = {key: e.error for key, e in found["e"].explanations.items()}
    assert {key for key, error in errors.items() if error} == {(3, 0), (3, 1)}
    assert errors[3, 0] is not None and errors[3, 0].reason == "NON_FINITE_VECTOR"
    (zero,) = found["zero"].explanations.values()
    assert zero.error is not None and zero.error.reason == "ZERO_VECTOR"
    assert zero.place is not None and zero.place.norm == 0.0
    bad, good = sorted(found["c"].readings, key=lambda reading: reading.index)
    assert bad.positions == (0,) and bad.error is not None
    assert bad.error.reason == "NON_FINITE_VECTOR" and "activations at 1" in bad.error.message
    assert good.error is None and good.positions == (0, 1)
    assert_idle(engine)
    assert_target_idle(engine)


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 9])
def test_cancelled_at_any_moment(
    pairs: dict[str, Pair], targets: dict[str, Path], steps: int
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], num_slots=4, max_read_tokens=32)
    engine.submit_explain(_explain(ids(*LONG[:70])), "gone")
    engine.submit_capture(CaptureRequest(inputs=tuple(ids(*LONG) for _ in range(4))), "gone too")
    engine.submit_explain(_explain(ids(*LONG[:5])), "kept")
    found: dict[str, Brought] = {}
    for _ in range(steps):
        step(engine, found)
    engine.cancel("gone")
    engine.cancel("gone too")
    while engine.has_work:
        step(engine, found)
    assert found["gone"].num_finished == found["gone too"].num_finished == 1
    assert found["kept"].num_finished == 1 and len(found["kept"].explanations) == 5
    assert all(e.finish_reason != "cancelled" for e in found["kept"].explanations.values())
    assert_idle(engine)
    assert_target_idle(engine)


@pytest.mark.parametrize(("given", "positions", "reason"), [
    (TextInput(text=""), "all", "EMPTY_TEXT"),
    (TextInput(token_ids=()), "all", "EMPTY_TEXT"),
    (TextInput(messages=()), "all", "EMPTY_TEXT"),
    (TextInput(token_ids=(1, -1)), "all", "INVALID_TOKEN_IDS"),
    (TextInput(token_ids=(1, 10**6)), "all", "INVALID_TOKEN_IDS"),
    (TextInput(token_ids=(5,) * 101), "all", "TEXT_TOO_LONG"),
    (TextInput(token_ids=(5, 6)), "2", "POSITION_OUT_OF_RANGE"),
    (TextInput(token_ids=(5, 6)), "-3", "POSITION_OUT_OF_RANGE"),
    (TextInput(token_ids=(5, 6)), "2:", "NO_POSITION"),
    (TextInput(text="a lone \ud800"), "all", "INVALID_TEXT"),
])  # fmt: skip
def test_texts_that_cannot_be_read(
    pairs: dict[str, Pair], targets: dict[str, Path], given: TextInput, positions: str, reason: str
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], max_text_tokens=100)
    with pytest.raises(RequestError) as refused:
        engine.submit_explain(_explain(given, positions))
    assert refused.value.reason == reason
    engine.submit_capture(
        CaptureRequest(inputs=(given, ids(5)), positions=Positions.parse(positions)), "c"
    )
    readings = {reading.index: reading for reading in run(engine)["c"].readings}
    error = readings[0].error
    assert error is not None and error.reason == reason
    assert not engine.has_work


def test_without_a_target(pairs: dict[str, Pair]) -> None:
    engine = small_engine(pairs["qwen2"].av)
    for submit, request in (
        (engine.submit_explain, _explain(ids(1))),
        (engine.submit_capture, CaptureRequest(inputs=(ids(1),))),
    ):
        with pytest.raises(RequestError) as refused:
            submit(request)  # type: ignore[operator]
        assert refused.value.reason == "NO_TARGET"


def test_more_rows_than_places(pairs: dict[str, Pair], targets: dict[str, Path]) -> None:
    """Rows that found no place in the prefill buffer are written as they start: the same tokens."""
    said = []
    for num_slots in (2, 64):
        engine = text_engine(pairs["gemma3"].av, targets["gemma3"], num_slots=num_slots)
        engine.submit_explain(_explain(ids(*LONG[:40])), "e")
        found = run(engine)["e"].explanations
        said.append({key: e.token_ids for key, e in found.items()})
        assert_target_idle(engine)
    assert said[0] == said[1] and len(said[0]) == 40


def test_flags_of_the_targets_own_tokens(
    pairs: dict[str, Pair], targets: dict[str, Path], references: dict[str, ReferenceTarget]
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    engine.facts = engine._requests.facts = replace(engine.facts, min_position=2)
    special = references["qwen2"].tokenizer.all_special_ids[0]
    engine.submit_explain(_explain(ids(30, special, 31, 32)), "e")
    found = run(engine)["e"].explanations
    flags = [set(found[index, 0].flags) & {"early_position", "special_token"} for index in range(4)]
    assert flags == [{"early_position"}, {"early_position", "special_token"}, set(), set()]


def test_a_target_that_only_reads_has_no_more_blocks(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"], target_generates=False)
    work, info = engine.target, engine.info
    assert work is not None and info is not None and info.target is not None
    assert len(work.target.decoder.blocks) == LAYER_INDEX + 1 == info.target.num_layers
    assert work.target.decoder.head is None and not info.target_generates
    with pytest.raises(RequestError, match="LAYER|layer_index: got 4, expected 0 to 3"):
        engine.submit_capture(CaptureRequest(inputs=(ids(1),), layer_index=LAYER_INDEX + 1))


def test_weights_in_common_are_held_once(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """A target that is its AV but for one block shares all the others, and reads the same."""
    target = tmp_path / "target"
    shutil.copytree(pairs["qwen2"].av, target)
    (target / "nla_meta.yaml").unlink()
    edit_weights(target, lambda name, t: t * 1.5 if ".layers.1.mlp.up" in name else t)
    engine = text_engine(pairs["qwen2"].av, target)
    work = engine.target
    assert work is not None
    mine, avs = work.target.decoder, engine.runner.decoder
    assert mine.embedding is avs.embedding and mine.head is avs.head
    assert [a is b for a, b in zip(mine.blocks, avs.blocks, strict=True)] == [
        index != 1 for index in range(NUM_LAYERS)
    ]
    assert work.target.tokenizer is engine.reader.tokenizer
    (rows,) = _capture(engine, ids(*LONG))
    expected = ReferenceTarget(target).activations(LONG, LAYER_INDEX)
    _assert_rows_close(rows, expected)


def test_a_target_is_never_quantised(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """What is explained are the activations it has in its own type; only the AV is in fp8."""
    av = pairs["qwen3"].av
    shutil.copytree(av, tmp_path / "target")
    (tmp_path / "target" / "nla_meta.yaml").unlink()
    engine = text_engine(av, tmp_path / "target", quantization="fp8")
    assert engine.target is not None and engine.runner.decoder.quantization == "fp8"
    mine, avs = engine.target.target.decoder, engine.runner.decoder
    assert mine.quantization == "none" and mine.embedding is avs.embedding
    assert all(a is not b for a, b in zip(mine.blocks, avs.blocks, strict=True))
    (rows,) = _capture(engine, ids(*LONG))
    _assert_rows_close(rows, ReferenceTarget(tmp_path / "target").activations(LONG, LAYER_INDEX))


@pytest.mark.parametrize("role", ["av", "ar"])
def test_an_av_or_an_ar_is_no_target(pairs: dict[str, Pair], role: str) -> None:
    pair = pairs["qwen3"]
    with pytest.raises(CheckpointError, match=f"got an {role.upper()}.*Name the model that was"):
        text_engine(pair.av, getattr(pair, role))


def test_more_positions_than_a_request_may_have(
    pairs: dict[str, Pair], targets: dict[str, Path]
) -> None:
    """Refused before anything of the text is read."""
    engine = text_engine(pairs["qwen2"].av, targets["qwen2"])
    with pytest.raises(RequestError, match="choose 5 of the text's 5 tokens, expected at most 4"):
        engine.submit_explain(replace(_explain(ids(*LONG[:5])), max_positions=4))
    prompt = WatchRequest(input=ids(*LONG[:5]), prompt_positions=Positions(), max_positions=4)
    with pytest.raises(RequestError, match="expected at most 4"):
        engine.submit_watch(prompt)
    assert not engine.has_work and engine.stats().target_tokens_read == 0
    engine.submit_explain(replace(_explain(ids(*LONG[:5])), max_positions=5))
    run(engine)
