"""Text of a request as the target's tokens: plain text, tokens as they are, or a chat."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from gloss_engine.errors import RequestError
from gloss_engine.target.target import Target
from gloss_engine.text_request import TextInput

_MAX_SAID = 200


def encode(target: Target, given: TextInput, *, to_go_on: bool = False) -> tuple[int, ...]:
    """The tokens of a text.

    Plain text gets the tokenizer's special tokens; a chat is rendered with the target's template,
    which writes its own, and encoded without. Special tokens that are written out in a text are
    read as such, as in transformers.

    Args:
        target: whose tokenizer.
        given: the text.
        to_go_on: of a chat, begin the assistant's turn.

    Returns:
        At least one token.

    Raises:
        RequestError: EMPTY_TEXT, TEXT_TOO_LONG, INVALID_TOKEN_IDS, INVALID_CHAT, INVALID_TEXT.
    """
    if given.token_ids is not None:
        ids = given.token_ids
        _check_ids(ids, target.spec.vocab_size)
    elif given.messages is not None:
        text = _render(target.tokenizer, given.messages, to_go_on)
        ids = _tokens(target.tokenizer, text, add_special_tokens=False)
    else:
        assert given.text is not None
        ids = _tokens(target.tokenizer, given.text, add_special_tokens=True)
    if not ids:
        raise RequestError("EMPTY_TEXT", "input", "input: got no token, expected one or more")
    if len(ids) > target.max_text_tokens:
        raise RequestError(
            "TEXT_TOO_LONG",
            "input",
            f"input: got {len(ids)} tokens, expected at most {target.max_text_tokens}; shorten "
            "the text or send it in pieces",
        )
    return ids


def _tokens(tokenizer: Any, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(
            "INVALID_TEXT", "input", "input: got a lone surrogate, expected text UTF-8 can hold"
        ) from None
    # A long text is refused by its caller; transformers would warn of it on the process' stderr.
    return tuple(tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))


def _check_ids(ids: tuple[int, ...], vocab_size: int) -> None:
    for index, token_id in enumerate(ids):
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                "INVALID_TOKEN_IDS",
                "input",
                f"input: got token id {token_id} at {index}, expected 0 to {vocab_size - 1}",
            )


def _render(tokenizer: Any, messages: tuple[tuple[str, str], ...], to_go_on: bool) -> str:
    if not tokenizer.chat_template:
        raise RequestError(
            "INVALID_CHAT",
            "input",
            "input: got a chat, but the target has no chat template; send text or token ids",
        )
    if not messages:
        raise RequestError("EMPTY_TEXT", "input", "input: got a chat without messages")
    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        rendered: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=to_go_on
        )
    # A template is a program: it refuses in words of its own, or fails in any way.
    except TemplateError as error:
        said = str(error)[:_MAX_SAID]
    except Exception as error:
        said = type(error).__name__
    else:
        return rendered
    raise RequestError(
        "INVALID_CHAT", "input", f"input: the target's chat template refused the messages: {said}"
    )
