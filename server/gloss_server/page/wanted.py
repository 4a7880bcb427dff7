"""What a request of the page asks of the service: its JSON to the client's arguments.

Names are held here, since an option that nobody knows would be dropped in silence. Values are
judged by the client and the service.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gloss_client.text_input import text_input
from gloss_server.json_kind import kind_of
from gloss_server.page.json_text import Json
from gloss_server.page.problem import Problem

_FORMS = ("text", "chat", "token_ids")
_DRAWN = ("num_samples", "temperature", "max_new_tokens", "seed")
_EXPLAIN = (*_DRAWN, "positions")
_WATCH = (
    *(*_DRAWN, "every", "max_pending", "tokens_per_second", "prompt_positions", "num_generated"),
    "target",
)
_TARGET = ("temperature", "max_new_tokens", "seed")
_WHOLE = ("num_samples", "max_new_tokens", "seed", "every", "max_pending", "num_generated")
_LARGEST = 2**64
_NUMBERS = ("temperature", "tokens_per_second")


def explain_arguments(body: Json) -> tuple[Any, Json]:
    """The text and the options of an Explain.

    Raises:
        Problem, InvalidRequest: what was got, what was expected.
    """
    return _text(body), _options(body, _EXPLAIN)


def watch_arguments(body: Json) -> tuple[Any, Json]:
    """The prompt and the options of a Watch.

    Raises:
        Problem, InvalidRequest: what was got, what was expected.
    """
    text, options = _text(body), _options(body, _WATCH)
    if "target" in options:
        target = options["target"]
        if not isinstance(target, dict):
            raise _invalid("target", f"got {kind_of(target)}, expected an object")
        _check_known(target, _TARGET, "target.")
        options["target"] = _given(target, "target.")
    return text, options


def _text(body: Json) -> Any:
    forms = [name for name in _FORMS if body.get(name) is not None]
    if len(forms) != 1:
        got = " and ".join(forms) or "none of them"
        raise _invalid("text", f"got {got}, expected one of text, chat and token_ids")
    form, value = forms[0], body[forms[0]]
    wanted = str if form == "text" else list
    if not isinstance(value, wanted):
        expected = "text" if wanted is str else "a list"
        raise _invalid(form, f"got {kind_of(value)}, expected {expected}")
    is_chat = bool(value) and isinstance(value, list) and isinstance(value[0], dict)
    if isinstance(value, list) and value and is_chat != (form == "chat"):
        expected = "messages of role and content" if form == "chat" else "whole numbers"
        raise _invalid(form, f"got a list of {kind_of(value[0])}, expected {expected}")
    # The client would judge it under its argument's name, which a browser does not know.
    text_input(value, form)
    return value


def _options(body: Json, known: tuple[str, ...]) -> Json:
    _check_known(body, (*_FORMS, *known))
    return _given({name: value for name, value in body.items() if name in known})


def _given(options: Json, prefix: str = "") -> Json:
    """Those that are stated; null is as good as absent."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() & {*_WHOLE, *_NUMBERS}:
        value, is_whole = given[name], name in _WHOLE
        # Protobuf would take 2.0 for a whole number, and true as 1.
        kinds = int if is_whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            expected = "a whole number" if is_whole else "a number"
            raise _invalid(f"{prefix}{name}", f"got {kind_of(value)}, expected {expected}")
        if not -_LARGEST < value < _LARGEST:
            raise _invalid(f"{prefix}{name}", "got a number beyond 2^64, expected a smaller one")
    return given


def _check_known(values: Json, known: Collection[str], prefix: str = "") -> None:
    unknown = sorted(values.keys() - set(known))
    if unknown:
        expected = ", ".join(known)
        raise _invalid(f"{prefix}{unknown[0][:80]}", f"got it, expected only {expected}")


def _invalid(field: str, message: str) -> Problem:
    return Problem("INVALID_ARGUMENT", f"{field}: {message}", reason="INVALID_REQUEST", field=field)
