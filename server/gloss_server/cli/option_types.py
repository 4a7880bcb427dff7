"""The options of the commands with their help texts; `cli_*.py` give them defaults and uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

ActivationFile = Annotated[
    Path,
    Argument(
        help="Activations: .npy, or .parquet with a column activation_vector.", show_default=False
    ),
]
OutputFile = Annotated[Path, Option(help="Rows go here: .jsonl or .parquet.", show_default=False)]
ServiceAddress = Annotated[
    str | None,
    Option(help="Server that explains: HOST:PORT. Default: 127.0.0.1:50051.", show_default=False),
]
TokenFile = Annotated[
    Path | None,
    Option(
        help="Holds the bearer token for the server. Default: what GLOSS_TOKEN_FILE names, or "
        "GLOSS_TOKEN holds.",
        show_default=False,
    ),
]
Tls = Annotated[
    bool | None,
    Option("--tls", help="Connect by TLS; so does any of --tls-*.", show_default=False),
]
TlsCa = Annotated[
    Path | None,
    Option(help="PEM certificates to trust. Default: the public ones.", show_default=False),
]
TlsCert = Annotated[
    Path | None,
    Option(help="PEM certificate to show, for mutual TLS.", show_default=False),
]
TlsKey = Annotated[Path | None, Option(help="PEM key of --tls-cert.", show_default=False)]
TlsServerName = Annotated[
    str | None,
    Option(
        help="Name that the server's certificate holds. Default: the address's host.",
        show_default=False,
    ),
]
Local = Annotated[
    bool, Option("--local", help="Run in this process; --av to --fve-baseline are for it.")
]
Av = Annotated[
    Path | None, Option(help="AV directory; without it the embedded pair.", show_default=False)
]
Ar = Annotated[Path | None, Option(help="AR directory, for evidence.", show_default=False)]
# None: not given. What is not given hides neither environment nor file of a server; and options of
# an engine in this process can be refused where a server is to explain. The help states defaults.
Device = Annotated[str | None, Option(help="auto, cpu or cuda. Default: auto.", show_default=False)]
Dtype = Annotated[
    str | None,
    Option(
        help="float32, bfloat16, float16 or auto (float32 on a CPU, else bfloat16). Default: auto.",
        show_default=False,
    ),
]
Quantization = Annotated[
    str | None,
    Option(
        help="none, or fp8: linear layers in 8 bits, for a GPU from Ada or Hopper on. "
        "Default: none.",
        show_default=False,
    ),
]
BatchInvariant = Annotated[
    bool | None,
    Option(
        "--batch-invariant/--no-batch-invariant",
        help="What is drawn never depends on what else runs; slower.",
        show_default=False,
    ),
]
InjectionMode = Annotated[
    str | None,
    Option(
        help="replace the marker's embedding, or add after block 1. Default: replace.",
        show_default=False,
    ),
]
Samples = Annotated[int, Option(help="Explanations per activation.")]
Temperature = Annotated[float, Option(help="0 is greedy.")]
TopP = Annotated[float, Option(help="Keep the likeliest tokens of this much probability.")]
TopK = Annotated[int, Option(help="Keep this many tokens; 0 keeps all.")]
MinP = Annotated[float, Option(help="Keep tokens of this share of the likeliest one.")]
RepetitionPenalty = Annotated[float, Option(help="On tokens already generated; 1 is none.")]
MaxNewTokens = Annotated[int, Option(help="Most tokens of an explanation.")]
Seed = Annotated[
    int | None, Option(help="Of the draws; without it one is drawn.", show_default=False)
]
Score = Annotated[
    bool | None,
    Option(
        "--score/--no-score",
        help="Score with the AR; without either, where there is one.",
        show_default=False,
    ),
]
FveBaseline = Annotated[
    float | None, Option(help="Used where the checkpoint names none.", show_default=False)
]
Layer = Annotated[
    int | None, Option(help="Layer that was read; else what the file says.", show_default=False)
]
AllowLayerMismatch = Annotated[
    bool, Option("--allow-layer-mismatch", help="Run though the AV was trained on another layer.")
]
DemoText = Annotated[
    str | None,
    Argument(
        metavar="TEXT",
        help="Your own, in place of a story; words that are not known are named.",
        show_default=False,
    ),
]
Story = Annotated[
    int | None,
    Option(help="Which of the shipped stories, from 1. Default: 1.", show_default=False),
]
Stories = Annotated[bool, Option("--stories", help="Show the stories' first words, and end.")]
DemoSeed = Annotated[int, Option(help="Of the draws.")]
ShowAll = Annotated[bool, Option("--all", help="Show every token, not a dozen of them.")]
DemoUi = Annotated[
    bool,
    Option("--ui", help="Read in a browser instead: a service of these models, and its page."),
]
DemoListen = Annotated[
    str | None,
    Option(
        help="Where browsers find the page of --ui: HOST:PORT (0: any free one). Default: "
        "127.0.0.1:8080.",
        metavar="ADDRESS",
        show_default=False,
    ),
]
CheckpointDirectory = Annotated[
    Path, Argument(help="An AV, AR or target, or a folder of them.", show_default=False)
]
AsJson = Annotated[bool, Option("--json", help="A JSON list for scripts.")]

# Of the server.
ConfigFile = Annotated[
    Path | None,
    Option(
        "--config", help="Settings as TOML; any of them also as GLOSS_NAME.", show_default=False
    ),
]
Target = Annotated[
    Path | None, Option(help="Directory of the explained model.", show_default=False)
]
Address = Annotated[
    str | None,
    Option(
        help="gRPC: HOST:PORT (0: any free one) or unix:PATH. Default: 127.0.0.1:50051.",
        show_default=False,
    ),
]
MetricsAddress = Annotated[
    str | None,
    Option(help="Metrics: HOST:PORT; empty: off. Default: 127.0.0.1:9464.", show_default=False),
]
AdminAddress = Annotated[
    str | None,
    Option(help="Health without TLS, for probes: HOST:PORT. Default: off.", show_default=False),
]
ServerCert = Annotated[
    Path | None,
    Option(
        "--tls-cert",
        help="PEM file of the server's certificate chain; with it gRPC is TLS.",
        show_default=False,
    ),
]
ServerKey = Annotated[
    Path | None,
    Option("--tls-key", help="PEM file of the certificate's key.", show_default=False),
]
ClientCa = Annotated[
    Path | None,
    Option(
        "--tls-client-ca",
        help="PEM file of the authorities whose clients alone are served.",
        show_default=False,
    ),
]
Tokens = Annotated[
    Path | None,
    Option(
        help="TOML file of the clients that alone are served, with their tokens.",
        show_default=False,
    ),
]
ModelName = Annotated[
    str | None,
    Option(
        help="What requests may call it. Default: the name of the AV's directory, or embedded.",
        show_default=False,
    ),
]
MemoryFraction = Annotated[
    float | None,
    Option(help="Share of a GPU's memory to use, to 1. Without it 0.9.", show_default=False),
]
MaxStepTokens = Annotated[
    int | None,
    Option(
        help="Most rows of a step: bounds how long prefills hold up what runs. Without it, on a "
        "GPU, two for each slot.",
        show_default=False,
    ),
]
Graphs = Annotated[
    str | None,
    Option(
        help="off: steps without CUDA graphs, slower, to hunt a fault. Default: auto.",
        show_default=False,
    ),
]
ServerAddress = Annotated[
    str, Argument(help="HOST:PORT of the server, or unix:PATH.", metavar="ADDRESS")
]
ServerAddresses = Annotated[
    list[str] | None,
    Argument(
        help="HOST:PORT of the server, or unix:PATH; of several, a line for each. Default: "
        "127.0.0.1:50051.",
        metavar="ADDRESS...",
        show_default=False,
    ),
]
Watch = Annotated[bool, Option("--watch", help="Go on and say every change, until Ctrl-C.")]
ClientName = Annotated[str, Argument(help="Of the client, as the log says it.", metavar="NAME")]
Once = Annotated[bool, Option("--once", help="Print one page and end.")]
TopAsJson = Annotated[bool, Option("--json", help="Print one line of JSON and end.")]
