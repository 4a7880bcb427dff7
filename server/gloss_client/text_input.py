"""Texts for the target, in the three forms a caller may give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.errors import InvalidRequest
from gloss_client.fields import extend_field, is_sequence, is_unicode

Text = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Plain text, to which the tokenizer adds its special tokens; token ids, taken as they are; or a
chat, `[{"role": "user", "content": ".."}]`, rendered with the target's template."""

_FORMS = (
    'expected a string, a sequence of token ids, or a chat: [{"role": "user", "content": "..."}]'
)


def text_input(text: Text, field: str) -> pb.TextInput:
    """The contract's message.

    Args:
        text: the text.
        field: the argument's name, for errors.

    Raises:
        InvalidRequest: none of the forms, or what the contract cannot hold.
    """
    if isinstance(text, str):
        return pb.TextInput(text=_checked(text, field, "INVALID_TEXT"))
    values: object = text.tolist() if isinstance(text, np.ndarray) else text
    if not is_sequence(values):
        raise InvalidRequest(
            f"{field}: got {type(text).__name__}, {_FORMS}", reason="INVALID_TEXT", field=field
        )
    if not len(values):
        raise InvalidRequest(
            f"{field}: got nothing, expected at least one token or message",
            reason="EMPTY_TEXT",
            field=field,
        )
    if isinstance(values[0], Mapping):
        return pb.TextInput(chat=pb.Chat(messages=_messages(values, field)))
    return pb.TextInput(token_ids=_token_ids(values, field))


def _token_ids(values: Sequence[int], field: str) -> pb.TokenIds:
    message = pb.TokenIds()
    extend_field(message, "ids", values, field, "INVALID_TOKEN_IDS")
    negative = next((index for index, value in enumerate(message.ids) if value < 0), None)
    if negative is not None:
        path = f"{field}[{negative}]"
        raise InvalidRequest(
            f"{path}: got {message.ids[negative]}, expected a token id, 0 or more",
            reason="INVALID_TOKEN_IDS",
            field=path,
        )
    return message


def _messages(values: Sequence[Mapping[str, str]], field: str) -> list[pb.ChatMessage]:
    """A chat's messages. A key that would be dropped is refused: the template may have used it."""
    messages = []
    for index, value in enumerate(values):
        path = f"{field}[{index}]"
        if not isinstance(value, Mapping) or value.keys() != {"role", "content"}:
            got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise InvalidRequest(
                f"{path}: got {got}, expected a message with role and content",
                reason="INVALID_CHAT",
                field=path,
            )
        message = pb.ChatMessage()
        for name in ("role", "content"):
            setattr(message, name, _checked(value[name], f"{path}.{name}", "INVALID_CHAT"))
        messages.append(message)
    return messages


def _checked(text: object, field: str, reason: str) -> str:
    if not isinstance(text, str):
        raise InvalidRequest(
            f"{field}: got {type(text).__name__}, expected a string", reason=reason, field=field
        )
    if not is_unicode(text):
        raise InvalidRequest(
            f"{field}: got a lone surrogate, expected text that UTF-8 can hold",
            reason=reason,
            field=field,
        )
    return text
