"""Texts for the target and positions in them, as requests of the contract state them.

Forms and sizes are judged here, by field. What needs the tokenizer or the chat template is judged
by the engine, which has them: how many tokens there are, and which positions they have.
"""

from __future__ import annotations

from gloss_api.v1 import gloss_pb2 as pb
from gloss_engine.capture.positions import MAX_LISTED, Positions
from gloss_engine.errors import RequestError
from gloss_engine.info import CheckpointInfo, ModelInfo
from gloss_engine.text_request import TextInput
from gloss_server.front.call_error import CallError
from gloss_server.front.options import Limits

_MAX_MESSAGES, _MAX_ROLE_LENGTH = 256, 64
_MESSAGE_TOKENS = 16
"""About what a template writes around a message, at most."""


def check_target(info: ModelInfo, generates: bool = False) -> CheckpointInfo:
    """The target.

    Args:
        info: what is loaded.
        generates: it has to generate as well.

    Raises:
        CallError: NO_TARGET or TARGET_READS_ONLY.
    """
    if info.target is None:
        raise CallError("NO_TARGET", "no target is loaded; start the server with --target")
    if generates and not info.target_generates:
        raise CallError(
            "TARGET_READS_ONLY",
            "the target is loaded up to block K and cannot generate; start the server with "
            "target_generates",
        )
    return info.target


def read_text(given: pb.TextInput, limits: Limits, field: str) -> TextInput:
    """A text in one of its forms.

    Args:
        field: where it stands.

    Raises:
        CallError: with the field at fault.
    """
    form = given.WhichOneof("input")
    if form is None:
        raise CallError("MISSING_FIELD", f"{field}: got none, expected text in one form", field)
    if form == "token_ids":
        return TextInput(token_ids=_token_ids(given.token_ids, limits, f"{field}.token_ids.ids"))
    if form == "chat":
        return TextInput(messages=_messages(given.chat, limits, f"{field}.chat.messages"))
    _check_length(len(given.text), limits, f"{field}.text")
    return TextInput(text=given.text)


def read_positions(selection: pb.PositionSelection, field: str) -> Positions:
    """A selection of positions; without a form all of them.

    Args:
        field: where it stands.

    Raises:
        CallError: INVALID_POSITIONS.
    """
    form = selection.WhichOneof("selection")
    try:
        if form == "slice":
            bounds = selection.slice
            names = [name for name in ("start", "stop", "step") if bounds.HasField(name)]
            return Positions(**{name: getattr(bounds, name) for name in names})
        if form == "list":
            # Counted before anything is made of them: a call may bring millions.
            _check_listed(len(selection.list.positions), field)
            return Positions(indices=tuple(selection.list.positions))
    except RequestError as error:
        raise CallError.of_request(error, field) from error
    return Positions()


def most_tokens(text: TextInput, info: ModelInfo) -> int:
    """About the most tokens a text may turn out to have, 1 or more: a token has a byte or more."""
    if text.token_ids is not None:
        return len(text.token_ids)
    if text.messages is not None:
        length = sum(len(content.encode()) + _MESSAGE_TOKENS for _, content in text.messages)
    else:
        assert text.text is not None
        length = len(text.text.encode())
    return max(min(length, info.max_text_tokens), 1)


def _token_ids(given: pb.TokenIds, limits: Limits, field: str) -> tuple[int, ...]:
    info, ids = limits.model.info, given.ids
    if not ids:
        raise CallError("EMPTY_TEXT", f"{field}: got none, expected 1 or more", field)
    if len(ids) > info.max_text_tokens:
        raise CallError(
            "TEXT_TOO_LONG",
            f"{field}: got {len(ids)}, expected at most {info.max_text_tokens}; shorten the text "
            "or send it in pieces",
            field,
        )
    vocab_size = check_target(info).vocab_size
    for token_id in (min(ids), max(ids)):
        if not 0 <= token_id < vocab_size:
            raise CallError(
                "INVALID_TOKEN_IDS",
                f"{field}: got {token_id}, expected 0 to {vocab_size - 1}, the target's tokens",
                field,
            )
    return tuple(ids)


def _messages(chat: pb.Chat, limits: Limits, field: str) -> tuple[tuple[str, str], ...]:
    messages = chat.messages
    if not 1 <= len(messages) <= _MAX_MESSAGES:
        raise CallError(
            "INVALID_CHAT",
            f"{field}: got {len(messages)}, expected 1 to {_MAX_MESSAGES}",
            field,
        )
    for index, message in enumerate(messages):
        if not 1 <= len(message.role) <= _MAX_ROLE_LENGTH:
            place = f"{field}[{index}].role"
            raise CallError(
                "INVALID_CHAT",
                f"{place}: got {len(message.role)} characters, expected 1 to {_MAX_ROLE_LENGTH}, "
                "such as user",
                place,
            )
    _check_length(sum(len(message.content) for message in messages), limits, field)
    return tuple((message.role, message.content) for message in messages)


def _check_listed(count: int, field: str) -> None:
    if not 1 <= count <= MAX_LISTED:
        raise CallError(
            "INVALID_POSITIONS", f"{field}: got {count}, expected 1 to {MAX_LISTED}", field
        )


def _check_length(length: int, limits: Limits, field: str) -> None:
    most = limits.settings.max_text_characters
    if length > most:
        raise CallError(
            "TEXT_TOO_LONG",
            f"{field}: got {length} characters, expected at most {most}; shorten the text or send "
            "it in pieces",
            field,
        )
