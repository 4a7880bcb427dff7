"""The AV's prompt with its marker, and the tags around an explanation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from gloss_training.errors import ConfigError
from gloss_training.settings import AV_SLOT, PromptSettings

EXPLANATION_OPEN: Final = "<explanation>"
EXPLANATION_CLOSE: Final = "</explanation>"


@dataclass(frozen=True, kw_only=True)
class MarkedPrompt:
    """The AV's prompt: ids with the marker at `marker_index`, and the ids on both sides of it."""

    token_ids: tuple[int, ...]
    marker_index: int

    @property
    def marker_id(self) -> int:
        return self.token_ids[self.marker_index]

    @property
    def left_id(self) -> int:
        return self.token_ids[self.marker_index - 1]

    @property
    def right_id(self) -> int:
        return self.token_ids[self.marker_index + 1]


def marked_prompt(tokenizer: Any, prompt: PromptSettings) -> MarkedPrompt:
    """Renders and encodes the AV prompt of a tokenizer.

    Raises:
        ConfigError: the marker does not stand in the prompt exactly once, as one token.
    """
    char = prompt.injection_char
    content = prompt.av_template.replace(AV_SLOT, char)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    token_ids = tokenizer.encode(rendered, add_special_tokens=False)
    alone = tokenizer.encode(char, add_special_tokens=False)
    found = [index for index, token in enumerate(token_ids) if token == alone[-1]]
    # A tokenizer may put a token of a blank before a text; any other makes it several tokens.
    is_one = not tokenizer.decode(alone[:-1]).strip()
    if not is_one or len(found) != 1 or not 0 < found[0] < len(token_ids) - 1:
        stands = f"stands in the AV's prompt {len(found)} times as one token between two others"
        raise ConfigError(
            f"prompt.injection_char: the marker {char!r} "
            f"{stands if is_one else f'is {len(alone)} tokens'}, expected one token that stands "
            "there once. Choose a character that is one token of this tokenizer between its "
            "neighbours in prompt.av_template"
        )
    return MarkedPrompt(token_ids=tuple(token_ids), marker_index=found[0])


def wrap(explanation: str) -> str:
    """The AV's response for an explanation, as trained on."""
    return f"{EXPLANATION_OPEN} {explanation} {EXPLANATION_CLOSE}"


def end_of_turn_id(tokenizer: Any, stop_ids: Iterable[int]) -> int:
    """The id that ends an assistant's turn: the last of `stop_ids` in a rendered one."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    stops = {*stop_ids, tokenizer.eos_token_id}
    found = [i for i in tokenizer.encode(rendered, add_special_tokens=False) if i in stops]
    return int(found[-1] if found else tokenizer.eos_token_id)


def stop_ids_of(model: Any) -> tuple[int, ...]:
    """The ids at which generation from a model ends, as its generation defaults say."""
    stated = model.generation_config.eos_token_id
    if stated is None:
        return ()
    return (stated,) if isinstance(stated, int) else tuple(stated)
