"""The AV's canonical prompt: cut at the marker, or refused with the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from gloss_engine.av.prompt import build_prompt
from gloss_engine.checkpoint import load_tokenizer
from gloss_engine.errors import CheckpointError
from gloss_engine.sidecar import Marker, Sidecar, read_sidecar
from support.checkpoints import Pair
from support.edits import add_nfc_marker, edit_sidecar


def opened(directory: Path) -> tuple[Any, Sidecar]:
    return load_tokenizer(directory), read_sidecar(directory)


def changed(sidecar: Sidecar, **marker: Any) -> Sidecar:
    assert sidecar.marker is not None
    return dataclasses.replace(sidecar, marker=dataclasses.replace(sidecar.marker, **marker))


def test_the_prompt_is_the_rendered_turn_cut_at_the_marker(pair: Pair) -> None:
    tokenizer, sidecar = opened(pair.av)
    prompt, marker, template = build_prompt(tokenizer, sidecar), sidecar.marker, sidecar.av_template
    assert marker is not None and template is not None
    turn = [{"role": "user", "content": template.replace("{injection_char}", marker.char)}]
    expected = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert list(prompt.ids) == expected
    assert prompt.ids[prompt.marker_position] == prompt.marker_id == marker.token_id
    assert prompt.prefix_ids[-1] == marker.left_neighbor_id
    assert prompt.suffix_ids[0] == marker.right_neighbor_id
    # Longer than Gemma's window of 8 on both sides, so that windows matter in the prompt.
    assert len(prompt.prefix_ids) > 20 and len(prompt.suffix_ids) > 8


def test_one_bos_where_the_family_has_one(pair: Pair, arch: str) -> None:
    tokenizer, sidecar = opened(pair.av)
    ids = build_prompt(tokenizer, sidecar).ids
    assert ids.count(tokenizer.bos_token_id) == (1 if arch in ("llama3", "gemma3") else 0)


@pytest.mark.parametrize("placeholder", ["{injection_char}", "<INJECT>", "\u320e"])
def test_spellings_of_the_placeholder(pairs: dict[str, Pair], placeholder: str) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    assert sidecar.av_template is not None
    template = sidecar.av_template.replace("{injection_char}", placeholder)
    other = dataclasses.replace(sidecar, av_template=template)
    assert build_prompt(tokenizer, other) == build_prompt(tokenizer, sidecar)


def test_other_braces_in_a_template_are_text(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    template = "{a} {} {{b}} %s <concept>{injection_char}</concept> {0[x]}"
    prompt = build_prompt(tokenizer, dataclasses.replace(sidecar, av_template=template))
    assert "{a} {} {{b}} %s <concept>" in tokenizer.decode(prompt.prefix_ids)
    assert "</concept> {0[x]}" in tokenizer.decode(prompt.suffix_ids)


def test_the_char_may_stand_elsewhere_between_other_neighbours(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    template = "Read \u320e here: <concept>{injection_char}</concept> and \u320e too."
    prompt = build_prompt(tokenizer, dataclasses.replace(sidecar, av_template=template))
    assert prompt.ids.count(prompt.marker_id) == 3
    assert tokenizer.decode(prompt.prefix_ids).endswith("here: <concept>")


@pytest.mark.parametrize("template", ["no placeholder", "{explanation}", "{injection_char"])
def test_a_template_without_placeholder(pairs: dict[str, Pair], template: str) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    with pytest.raises(CheckpointError, match="without a placeholder"):
        build_prompt(tokenizer, dataclasses.replace(sidecar, av_template=template))


def test_two_placeholders(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    template = "<concept>{injection_char}</concept> <concept><INJECT></concept>"
    with pytest.raises(CheckpointError, match="2 matches"):
        build_prompt(tokenizer, dataclasses.replace(sidecar, av_template=template))


@pytest.mark.parametrize("side", ["left_neighbor_id", "right_neighbor_id"])
def test_neighbours_that_differ(pair: Pair, side: str) -> None:
    tokenizer, sidecar = opened(pair.av)
    with pytest.raises(CheckpointError, match="neighbours") as caught:
        build_prompt(tokenizer, changed(sidecar, **{side: 3}))
    assert str(sidecar.marker.token_id if sidecar.marker else None) in str(caught.value.got)


def test_a_marker_without_room_for_neighbours(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    bare = dataclasses.replace(sidecar, av_template="{injection_char}")
    with pytest.raises(CheckpointError, match="neighbours"):
        build_prompt(tokenizer, bare)


def test_a_char_with_another_id(pair: Pair) -> None:
    tokenizer, sidecar = opened(pair.av)
    assert sidecar.marker is not None
    with pytest.raises(CheckpointError, match="encoded as") as caught:
        build_prompt(tokenizer, changed(sidecar, token_id=149705))
    assert str(sidecar.marker.token_id) in str(caught.value.got)


def test_a_char_that_is_several_tokens(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["llama3"].av)
    with pytest.raises(CheckpointError, match=r"encoded as \[\d+, \d+"):
        build_prompt(tokenizer, changed(sidecar, char="\u32ff", token_id=100000))


def test_a_doubled_bos(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["llama3"].av)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    with pytest.raises(CheckpointError, match="two BOS"):
        build_prompt(tokenizer, sidecar)


@pytest.mark.parametrize(
    "chat_template", [None, "{{ raise_exception('no') }}", "{% for %}", "{{ messages[7].role }}"]
)
def test_unusable_chat_templates(pairs: dict[str, Pair], chat_template: str | None) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    tokenizer.chat_template = chat_template
    with pytest.raises(CheckpointError, match="chat template"):
        build_prompt(tokenizer, sidecar)


def test_a_chat_template_that_drops_the_turn(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    tokenizer.chat_template = "hello"
    with pytest.raises(CheckpointError, match="nowhere in the prompt"):
        build_prompt(tokenizer, sidecar)


@pytest.mark.parametrize("field", ["marker", "av_template"])
def test_sidecars_without_what_an_av_needs(pairs: dict[str, Pair], field: str) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].av)
    with pytest.raises(CheckpointError, match="sidecar"):
        build_prompt(tokenizer, dataclasses.replace(sidecar, **{field: None}))


def test_a_tokenizer_that_transformers_rebuilds(
    pairs: dict[str, Pair], copy_of: Callable[[Path], Path]
) -> None:
    """tokenizer.json keeps U+F900 as it is; the Qwen2 tokenizer that transformers makes of it
    normalises it away, and the check of the prompt says so."""
    directory = copy_of(pairs["qwen2"].av)
    char, token_id = add_nfc_marker(directory)
    raw = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert raw.encode(char, add_special_tokens=False).ids == [token_id]
    tokens = {"injection_char": char, "injection_token_id": token_id}
    edit_sidecar(directory, lambda meta: meta["tokens"].update(tokens))
    tokenizer, sidecar = opened(directory)
    assert sidecar.marker == Marker(
        char=char,
        token_id=token_id,
        left_neighbor_id=sidecar.marker.left_neighbor_id if sidecar.marker else -1,
        right_neighbor_id=sidecar.marker.right_neighbor_id if sidecar.marker else -1,
    )
    with pytest.raises(CheckpointError, match="transformers rebuilt"):
        build_prompt(tokenizer, sidecar)
