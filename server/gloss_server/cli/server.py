"""Commands of a server and about one: `gloss serve`, `health`, `top`, `ui`, `token`.

torch takes seconds to import, so commands import what they need when they run.
"""

from __future__ import annotations

from contextlib import suppress

import typer
from rich.console import Console

from gloss_server.cli import option_types as kinds
from gloss_server.commands import ui_options as page
from gloss_server.sources.explainer_choice import DEFAULT_ADDRESS
from gloss_server.terminal import print_lines, say

NOT_SERVING = 1


def serve(
    config: kinds.ConfigFile = None,
    av: kinds.Av = None,
    ar: kinds.Ar = None,
    target: kinds.Target = None,
    address: kinds.Address = None,
    metrics_address: kinds.MetricsAddress = None,
    admin_address: kinds.AdminAddress = None,
    tls_cert: kinds.ServerCert = None,
    tls_key: kinds.ServerKey = None,
    tls_client_ca: kinds.ClientCa = None,
    tokens: kinds.Tokens = None,
    device: kinds.Device = None,
    dtype: kinds.Dtype = None,
    quantization: kinds.Quantization = None,
    injection_mode: kinds.InjectionMode = None,
    fve_baseline: kinds.FveBaseline = None,
    model_name: kinds.ModelName = None,
    memory_fraction: kinds.MemoryFraction = None,
    max_step_tokens: kinds.MaxStepTokens = None,
    batch_invariant: kinds.BatchInvariant = None,
    graphs: kinds.Graphs = None,
) -> None:
    """Serve explanations over gRPC until SIGTERM or Ctrl-C. A flag goes before the environment
    (GLOSS_ADDRESS), the environment before the file."""
    flags = {name: value for name, value in locals().items() if name != "config"}
    from gloss_server.settings_sources import read_settings

    settings = read_settings(flags, config)
    from gloss_server.front.server import serve as run_server

    raise typer.Exit(run_server(settings))


def health(
    address: kinds.ServerAddress = DEFAULT_ADDRESS,
    watch: kinds.Watch = False,
    tls: kinds.Tls = None,
    tls_ca: kinds.TlsCa = None,
    tls_cert: kinds.TlsCert = None,
    tls_key: kinds.TlsKey = None,
    tls_server_name: kinds.TlsServerName = None,
) -> None:
    """Ask a server whether it serves: SERVING (status 0) or NOT_SERVING (status 1). It needs no
    token."""
    from gloss_server.commands.health import SERVING, check_health, watch_health
    from gloss_server.sources.connection_options import ConnectionOptions

    options = ConnectionOptions(
        tls=bool(tls),
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
    )
    if watch:
        with suppress(KeyboardInterrupt):
            watch_health(address, options, lambda status: print_lines([status]), say)
        return
    status = check_health(address, options)
    print_lines([status])
    if status != SERVING:
        raise typer.Exit(NOT_SERVING)


def top(
    addresses: kinds.ServerAddresses = None,
    once: kinds.Once = False,
    as_json: kinds.TopAsJson = False,
    token_file: kinds.TokenFile = None,
    tls: kinds.Tls = None,
    tls_ca: kinds.TlsCa = None,
    tls_cert: kinds.TlsCert = None,
    tls_key: kinds.TlsKey = None,
    tls_server_name: kinds.TlsServerName = None,
) -> None:
    """Watch a server's queue, batch, rates and latencies, or those of several, until q or
    Ctrl-C."""
    from gloss_server.commands.top.command import run_top
    from gloss_server.sources.connection_options import ConnectionOptions

    options = ConnectionOptions(
        tls=bool(tls),
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
        token_file=token_file,
    )
    run_top(addresses or [DEFAULT_ADDRESS], options, Console(), once, as_json)


def ui(
    address: page.Addresses = None,
    listen: page.Listen = page.DEFAULT_LISTEN,
    allow_host: page.AllowHosts = None,
    token_file: kinds.TokenFile = None,
    tls: kinds.Tls = None,
    tls_ca: kinds.TlsCa = None,
    tls_cert: kinds.TlsCert = None,
    tls_key: kinds.TlsKey = None,
    tls_server_name: kinds.TlsServerName = None,
) -> None:
    """Serve a page on which a browser reads a service's explanations, until SIGTERM or Ctrl-C."""
    from gloss_server.commands.ui import UiOptions, run_ui
    from gloss_server.sources.connection_options import ConnectionOptions

    connection = ConnectionOptions(
        tls=bool(tls),
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
        token_file=token_file,
    )
    run_ui(
        UiOptions(
            addresses=address or [DEFAULT_ADDRESS],
            listen=listen,
            allow_hosts=allow_host or [],
            connection=connection,
        )
    )


def token(name: kinds.ClientName) -> None:
    """Make a client's token: its entry for the server's file of tokens goes to stdout, the token,
    which is shown this once, to stderr."""
    from gloss_server.commands.token import new_token

    text, entry = new_token(name)
    print_lines([entry])
    say(f"token of {name}: {text}")
