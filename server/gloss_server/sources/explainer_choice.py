"""Which explainer a command line asks for: this process (--local) or a server.

Imports an explainer only when it is the one: the local one brings torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gloss_server.command_error import CommandError

if TYPE_CHECKING:
    from gloss_server.sources.connection_options import ConnectionOptions
    from gloss_server.sources.explainer import Explainer
    from gloss_server.sources.text_source import TextSource

DEFAULT_ADDRESS = "127.0.0.1:50051"
HERE = (
    *("av", "ar", "device", "dtype", "quantization", "batch_invariant"),
    *("injection_mode", "fve_baseline"),
)
"""Options of an engine in this process, for activations; for texts there is also target."""
THERE = ("address", "token_file", "tls", "tls_ca", "tls_cert", "tls_key", "tls_server_name")
"""Options of a connection."""


def choose_explainer(local: bool, here: Mapping[str, Any], there: Mapping[str, Any]) -> Explainer:
    """The source of explanations of activations.

    Args:
        local: whether --local was given.
        here: options of an engine in this process, by name; None: not given.
        there: options of a connection, likewise.

    Raises:
        CommandError: options of the one given with the other.
    """
    given = _given(local, here, there)
    if local:
        from gloss_server.sources.local_explainer import LocalExplainer

        return LocalExplainer(**given)
    from gloss_server.sources.service_explainer import ServiceExplainer

    return ServiceExplainer(given.pop("address", DEFAULT_ADDRESS), _connection(given))


def choose_texts(local: bool, here: Mapping[str, Any], there: Mapping[str, Any]) -> TextSource:
    """The source of explanations of texts. Args and errors are those of `choose_explainer`."""
    given = _given(local, here, there)
    if local:
        from gloss_server.sources.local_texts import LocalTexts

        return LocalTexts(**given)
    from gloss_server.sources.service_texts import ServiceTexts

    return ServiceTexts(given.pop("address", DEFAULT_ADDRESS), _connection(given))


def named(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Some of a command's options; they have the names of what they become."""
    return {name: given[name] for name in names}


def _connection(given: Mapping[str, Any]) -> ConnectionOptions:
    from gloss_server.sources.connection_options import ConnectionOptions

    return ConnectionOptions(**given)


def _given(local: bool, here: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the one that was chosen."""
    given_here = {name: value for name, value in here.items() if value is not None}
    given_there = {name: value for name, value in there.items() if value is not None}
    if local:
        if given_there:
            raise CommandError(
                f"{_flags(given_there)} with --local: a run in this process connects to no server. "
                "Leave one of them out"
            )
        return given_here
    if given_here:
        raise CommandError(
            f"{_flags(given_here)} without --local: the server has chosen its checkpoints and how "
            "to run them. Add --local to run in this process, or leave it out"
        )
    return given_there


def _flags(options: Mapping[str, Any]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)
