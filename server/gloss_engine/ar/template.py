"""The AR's prompt: raw text around an explanation, encoded with special tokens, never padded.

Finds the leading ids that prompts share, so that their keys and values are computed once. The
forward pass and the head are for the reconstructor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gloss_engine.errors import CheckpointError
from gloss_engine.sidecar import Sidecar

PLACEHOLDER = "{explanation}"
# Beginnings and endings that could merge with the template's edges: nothing, letters, spaces,
# digits, brackets as in the tags, newlines, a combining accent, CJK, an emoji, braces, quotes.
_PROBES = (
    "",
    "The text is about rivers.",
    " leading and trailing space ",
    "42",
    ">>> text > <",
    "</text>",
    "\n\nparagraph\n",
    "\u0301accent\u0301",
    "\u6cb3\u5ddd",
    "\U0001f600",
    "{explanation} {0} {}",
    '"quoted"',
    "...",
)


@dataclass(frozen=True, kw_only=True)
class ReconstructorTemplate:
    """An AR's template with its tokenizer.

    Attributes:
        tokenizer: the AR's fast tokenizer.
        head, tail: the template's text before and after the explanation.
        prefix_ids: leading ids shared by prompts (see `shares_prefix`); may be empty.
    """

    tokenizer: Any
    head: str
    tail: str
    prefix_ids: tuple[int, ...]

    @classmethod
    def build(cls, tokenizer: Any, sidecar: Sidecar) -> ReconstructorTemplate:
        """Check the template against the tokenizer and find the shared prefix.

        Args:
            tokenizer: the AR's fast tokenizer.
            sidecar: the AR's sidecar.

        Raises:
            CheckpointError: no template, not exactly one `{explanation}` in it, a BOS that the
                tokenizer has but does not add, a doubled BOS, or prompts that do not end with
                the sidecar's critic_suffix_ids.
        """
        head, tail = _split(sidecar.ar_template)
        unchecked = cls(tokenizer=tokenizer, head=head, tail=tail, prefix_ids=())
        prompts = unchecked.encode(_PROBES)
        _check_bos(prompts[0], tokenizer.bos_token_id)
        _check_suffix(prompts, sidecar.critic_suffix_ids)
        head_ids = tokenizer.encode(head, add_special_tokens=True)
        # The head's last token may merge with the explanation's first characters.
        prefix = _shared([head_ids[:-1], *prompts])
        return cls(tokenizer=tokenizer, head=head, tail=tail, prefix_ids=prefix)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The prompt of each explanation, as ids of different lengths.

        Explanations are data: braces, placeholders and marker characters in them stay as they
        are. The last id of each list is the one whose hidden state the head reads.

        Args:
            texts: explanations; empty strings are allowed.
        """
        if not texts:
            return []
        prompts = [self.head + text + self.tail for text in texts]
        encoded = self.tokenizer(
            prompts,
            add_special_tokens=True,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            verbose=False,
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def shares_prefix(self, ids: Sequence[int]) -> bool:
        """Whether a prompt begins with `prefix_ids` and goes on after them.

        True for every probe; a text whose first characters merge deep into the head is thinkable
        in a tokenizer without word boundaries, and such a prompt has to be prefilled whole.
        """
        num_prefix = len(self.prefix_ids)
        return len(ids) > num_prefix and tuple(ids[:num_prefix]) == self.prefix_ids


def _split(template: str | None) -> tuple[str, str]:
    parts = [] if template is None else template.split(PLACEHOLDER)
    if len(parts) != 2:
        raise CheckpointError(
            "sidecar prompt_templates.ar",
            got="no template" if template is None else f"{len(parts) - 1} times {PLACEHOLDER}",
            expected=f"a template with {PLACEHOLDER} once",
            fix="Take nla_meta.yaml from the release again.",
        )
    return parts[0], parts[1]


def _check_bos(ids: list[int], bos: int | None) -> None:
    if bos is None:
        return
    if ids[:1] != [bos]:
        # Gemma's FVE falls from 0.77 to 0.31 without it.
        raise CheckpointError(
            "AR prompt",
            got=f"ids beginning with {ids[:3]}",
            expected=f"the tokenizer's BOS ({bos}) first",
            fix="Set add_bos_token in tokenizer_config.json, or bos_token to null if the AR was "
            "trained without one.",
        )
    if ids[:2] == [bos, bos]:
        raise CheckpointError(
            "AR prompt",
            got=f"two BOS tokens ({bos})",
            expected="one",
            fix="Remove the BOS from the template in the sidecar; the tokenizer adds it.",
        )


def _check_suffix(prompts: list[list[int]], suffix_ids: tuple[int, ...] | None) -> None:
    if suffix_ids is None:
        return
    for ids in prompts:
        if tuple(ids[-len(suffix_ids) :]) != suffix_ids:
            raise CheckpointError(
                "sidecar tokens.critic_suffix_ids",
                got=f"a prompt that ends with {ids[-len(suffix_ids) :]}",
                expected=list(suffix_ids),
                fix="The sidecar belongs to another tokenizer or another template.",
            )


def _shared(prompts: list[list[int]]) -> tuple[int, ...]:
    """The longest common beginning that leaves every prompt at least one id more."""
    shortest = min(len(ids) for ids in prompts[1:]) - 1
    shared: list[int] = []
    for position in range(min(shortest, len(prompts[0]))):
        if len({ids[position] for ids in prompts}) > 1:
            break
        shared.append(prompts[0][position])
    return tuple(shared)
