"""The options of `gloss ui` with their help texts."""

from __future__ import annotations

from typing import Annotated

from typer import Option

DEFAULT_LISTEN = "127.0.0.1:8080"
Addresses = Annotated[
    list[str] | None,
    Option(
        "--address",
        help="Service to ask: HOST:PORT or unix:PATH; several go round. Default: 127.0.0.1:50051.",
        metavar="ADDRESS",
        show_default=False,
    ),
]
Listen = Annotated[
    str,
    Option(help="Where browsers find the page: HOST:PORT (0: any free one).", metavar="ADDRESS"),
]
AllowHosts = Annotated[
    list[str] | None,
    Option(
        "--allow-host",
        help="Name that browsers may reach the page by, besides those of this machine alone.",
        metavar="NAME",
        show_default=False,
    ),
]
