"""The AV's fixed prompt as token ids: what precedes the injected row, and what follows it.

Built once per checkpoint and checked against the sidecar then; afterwards injection goes by
position alone and never searches for an id. The forward pass is for the verbalizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gloss_engine.errors import CheckpointError
from gloss_engine.sidecar import Marker, Sidecar

# `{injection_char}` in checkpoints, `<INJECT>` in training data; a template may also hold the
# character itself.
PLACEHOLDERS = ("{injection_char}", "<INJECT>")
_OTHER_TOKENIZER = (
    "The sidecar belongs to another tokenizer, or transformers rebuilt this one in its own way; "
    "use the tokenizer files and the transformers version that the checkpoint was made with."
)


@dataclass(frozen=True, kw_only=True)
class VerbalizerPrompt:
    """The canonical prompt, cut at the injection token.

    Attributes:
        prefix_ids: everything before the injection token; the same for every request.
        marker_id: the injection token's id; its embedding row is replaced.
        suffix_ids: everything after it, generation prompt included.
    """

    prefix_ids: tuple[int, ...]
    marker_id: int
    suffix_ids: tuple[int, ...]

    @property
    def marker_position(self) -> int:
        """Position of the injected row."""
        return len(self.prefix_ids)

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return (*self.prefix_ids, self.marker_id, *self.suffix_ids)


def build_prompt(tokenizer: Any, sidecar: Sidecar) -> VerbalizerPrompt:
    """Render the AV's template as one user turn, encode it and find the injection token.

    Args:
        tokenizer: the AV's fast tokenizer, with a chat template.
        sidecar: the AV's sidecar.

    Raises:
        CheckpointError: no marker or template in the sidecar, no chat template, a doubled BOS, or
            not exactly one position that holds the marker between its neighbours.
    """
    marker = sidecar.marker
    if marker is None:
        raise CheckpointError(
            "sidecar tokens.injection_char",
            got="nothing",
            expected="the injection token and its neighbours",
            fix="An AV cannot be run without them; take nla_meta.yaml from the release again.",
        )
    text = render_prompt(tokenizer, sidecar, marker)
    # The chat template writes the BOS itself, so the tokenizer must not add another.
    ids = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise CheckpointError(
            "AV prompt",
            got=f"two BOS tokens ({bos})",
            expected="one",
            fix="Remove the BOS from the template in the sidecar or from the chat template.",
        )
    position = _marker_position(ids, marker, tokenizer)
    return VerbalizerPrompt(
        prefix_ids=tuple(ids[:position]),
        marker_id=marker.token_id,
        suffix_ids=tuple(ids[position + 1 :]),
    )


def render_prompt(tokenizer: Any, sidecar: Sidecar, marker: Marker) -> str:
    """The canonical prompt as text: template filled, chat template applied.

    Raises:
        CheckpointError: no AV template, no placeholder in it, or no usable chat template.
    """
    template = sidecar.av_template
    if template is None:
        raise CheckpointError(
            "sidecar prompt_templates.av",
            got="nothing",
            expected="the AV's prompt",
            fix="Take nla_meta.yaml from the release again.",
        )
    # Plain replacement: braces elsewhere in a template are text, which str.format would eat.
    content = template
    for placeholder in PLACEHOLDERS:
        content = content.replace(placeholder, marker.char)
    if marker.char not in content:
        raise CheckpointError(
            "sidecar prompt_templates.av",
            got="a template without a placeholder",
            expected=f"one of {', '.join(PLACEHOLDERS)} or {marker.char!r}",
            fix="Put the placeholder where the activation goes.",
        )
    try:
        rendered: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    # A chat template is a program: jinja2 errors, ValueError (there is none) or anything else.
    except Exception as error:
        raise CheckpointError(
            "chat template",
            got=f"{type(error).__name__}: {error}",
            expected="one that renders a single user turn",
            fix="Copy chat_template.jinja or tokenizer_config.json from the release.",
        ) from error
    return rendered


def _marker_position(ids: list[int], marker: Marker, tokenizer: Any) -> int:
    """The one position that holds the marker between its neighbours."""
    wanted = (marker.left_neighbor_id, marker.token_id, marker.right_neighbor_id)
    held = [position for position, token_id in enumerate(ids) if token_id == marker.token_id]
    around = {position: tuple(ids[max(position - 1, 0) : position + 2]) for position in held}
    matches = [position for position in held if around[position] == wanted]
    if len(matches) == 1:
        return matches[0]
    if not held:
        alone = tokenizer.encode(marker.char, add_special_tokens=False)
        raise CheckpointError(
            "AV prompt: injection token",
            got=f"{marker.char!r} encoded as {alone}, and {marker.token_id} nowhere in the prompt",
            expected=f"the single id {marker.token_id}",
            fix=_OTHER_TOKENIZER,
        )
    if not matches:
        raise CheckpointError(
            "AV prompt: neighbours of the injection token",
            got=f"{list(around.values())} (left, marker, right)",
            expected=list(wanted),
            fix=_OTHER_TOKENIZER,
        )
    raise CheckpointError(
        "AV prompt: injection token",
        got=f"{len(matches)} matches, at positions {matches}",
        expected="exactly one",
        fix="The template must hold the placeholder once.",
    )
