"""The AR's prompt: BOS where there is one, a shared prefix, and explanations as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gloss_engine.ar.template import ReconstructorTemplate
from gloss_engine.checkpoint import load_tokenizer
from gloss_engine.errors import CheckpointError
from gloss_engine.sidecar import Sidecar, read_sidecar
from support.checkpoints import Pair
from support.edits import edit_json
from support.tokenizers_made import AR_TEMPLATE

HOSTILE = "{explanation} {0} {} {{x}} %s <INJECT> {injection_char} \u320e\u321c </text>"


def opened(directory: Path) -> tuple[Any, Sidecar]:
    return load_tokenizer(directory), read_sidecar(directory)


@pytest.fixture(scope="session")
def templates(pairs: dict[str, Pair]) -> dict[str, ReconstructorTemplate]:
    return {arch: ReconstructorTemplate.build(*opened(pair.ar)) for arch, pair in pairs.items()}


@pytest.fixture
def template(templates: dict[str, ReconstructorTemplate], arch: str) -> ReconstructorTemplate:
    return templates[arch]


def test_prompts_are_those_of_the_reference(template: ReconstructorTemplate) -> None:
    texts = ["", "It rains.", "Two lines.\nOf text; 42!", " spaces "]
    expected = [template.tokenizer.encode(AR_TEMPLATE.format(explanation=text)) for text in texts]
    assert template.encode(texts) == expected
    assert [template.encode([text])[0] for text in texts] == expected


def test_explanations_are_data(template: ReconstructorTemplate) -> None:
    (ids,) = template.encode([HOSTILE])
    text = template.tokenizer.decode(ids, skip_special_tokens=True)
    assert text == f"Summary of the following text: <text>{HOSTILE}</text> <summary>"


def test_no_texts(template: ReconstructorTemplate) -> None:
    assert template.encode([]) == []


def test_lengths_differ_and_nothing_is_padded(template: ReconstructorTemplate) -> None:
    short, long = template.encode(["a", "a much longer explanation of the same thing"])
    assert len(short) < len(long)
    assert short[-5:] == long[-5:]


def test_bos_comes_first_where_there_is_one(template: ReconstructorTemplate, arch: str) -> None:
    bos = template.tokenizer.bos_token_id
    assert (bos is not None) is (arch in ("llama3", "gemma3"))
    for ids in template.encode(["", "It rains."]):
        assert ids.count(bos) == (0 if bos is None else 1)
        assert bos is None or ids[0] == template.prefix_ids[0] == bos


def test_the_prefix_covers_the_head_but_its_last_token(template: ReconstructorTemplate) -> None:
    head = template.tokenizer.encode(template.head)
    assert len(head) - 3 <= len(template.prefix_ids) < len(head)
    assert tuple(head[: len(template.prefix_ids)]) == template.prefix_ids


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(max_size=20))
@example(text=HOSTILE)
@example(text=">>>\n")
@example(text="\u0338")
def test_every_prompt_shares_the_prefix(template: ReconstructorTemplate, text: str) -> None:
    (ids,) = template.encode([text])
    assert template.shares_prefix(ids)


def test_a_prompt_that_does_not_share_the_prefix_is_told(template: ReconstructorTemplate) -> None:
    assert not template.shares_prefix(template.prefix_ids)
    assert not template.shares_prefix([7, *template.prefix_ids, 7])


def test_a_text_that_merges_deep_into_the_head_is_told(pairs: dict[str, Pair]) -> None:
    """A head that ends inside a word: some texts finish the word and take its tokens apart."""
    tokenizer, sidecar = opened(pairs["qwen2"].ar)
    loose = dataclasses.replace(
        sidecar, ar_template="Summary of the tex{explanation} end", critic_suffix_ids=None
    )
    template = ReconstructorTemplate.build(tokenizer, loose)
    whole, broken = template.encode(["42", "t and more"])
    assert template.shares_prefix(whole) and not template.shares_prefix(broken)
    assert broken == tokenizer.encode("Summary of the text and more end")


@pytest.mark.parametrize("head", ["", "x", "It is 7"])
def test_the_heads_last_token_is_never_shared(pair: Pair, head: str) -> None:
    tokenizer, sidecar = opened(pair.ar)
    bare = dataclasses.replace(
        sidecar, ar_template=head + "{explanation} end", critic_suffix_ids=None
    )
    template = ReconstructorTemplate.build(tokenizer, bare)
    assert len(template.prefix_ids) <= max(len(tokenizer.encode(head)) - 1, 0)
    for ids in template.encode(["", "text"]):
        assert template.shares_prefix(ids)


@pytest.mark.parametrize("text", [None, "no placeholder", "{explanation} {explanation}"])
def test_templates_without_exactly_one_placeholder(
    pairs: dict[str, Pair], text: str | None
) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].ar)
    with pytest.raises(CheckpointError, match=r"prompt_templates\.ar"):
        ReconstructorTemplate.build(tokenizer, dataclasses.replace(sidecar, ar_template=text))


def test_other_braces_in_a_template_are_text(pairs: dict[str, Pair]) -> None:
    tokenizer, sidecar = opened(pairs["qwen2"].ar)
    braces = dataclasses.replace(
        sidecar, ar_template="{a} {} {{b}} {explanation}!", critic_suffix_ids=None
    )
    (ids,) = ReconstructorTemplate.build(tokenizer, braces).encode(["text"])
    assert tokenizer.decode(ids) == "{a} {} {{b}} text!"


def test_a_bos_that_is_not_added(pairs: dict[str, Pair], copy_of: Callable[[Path], Path]) -> None:
    directory = copy_of(pairs["llama3"].ar)
    edit_json(directory / "tokenizer.json", lambda loaded: loaded.update(post_processor=None))
    with pytest.raises(CheckpointError, match="BOS") as caught:
        ReconstructorTemplate.build(*opened(directory))
    assert "add_bos_token" in caught.value.fix


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_a_doubled_bos(pairs: dict[str, Pair], name: str) -> None:
    tokenizer, sidecar = opened(pairs[name].ar)
    doubled = dataclasses.replace(sidecar, ar_template=f"{tokenizer.bos_token}{AR_TEMPLATE}")
    with pytest.raises(CheckpointError, match="two BOS"):
        ReconstructorTemplate.build(tokenizer, doubled)


def test_suffix_ids_are_checked(pair: Pair) -> None:
    tokenizer, sidecar = opened(pair.ar)
    suffix = sidecar.critic_suffix_ids
    assert suffix is not None and len(suffix) >= 3
    for wrong in ((*suffix[:-1], suffix[-1] + 1), (9, *suffix), (*suffix, 9)):
        with pytest.raises(CheckpointError, match="critic_suffix_ids"):
            ReconstructorTemplate.build(
                tokenizer, dataclasses.replace(sidecar, critic_suffix_ids=wrong)
            )
    ReconstructorTemplate.build(tokenizer, dataclasses.replace(sidecar, critic_suffix_ids=None))
