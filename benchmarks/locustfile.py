"""Load for a server, driven by Locust.

    locust -f benchmarks/locustfile.py --host 127.0.0.1:50051 --headless -u 32 -r 8 -t 30s

Without --headless Locust's page sets the load; --processes and --master/--worker spread it. A user
is a connection of its own.

--mode closed  A user makes its next call when the one before has ended: the load gives way to a
               slow server, and its latencies flatter it.
--mode open    A user makes --rate calls a second whatever becomes of them, as independent callers
               do (Poisson arrivals). Latencies count from the moment a call was due. With -u N the
               load is N times --rate.

Locust's table has, by RPC, end_to_end of calls that ended well, time_to_first_token and inter_token
(each gap between messages with text) of their streams, time_per_token (a stream's mean), refused
by reason with the time until it was said, and failed. Its `Aggregated` row adds up unlike things.
Sizes are tokens. --records keeps every call (`load_records.py`).

A generator that falls behind measures itself: it says so at the end. gevent and grpc take about
0.3 ms of its one core for a small unary call and 0.2 ms for a message of a stream: some 3,000 calls
or 5,000 messages a second are the most that one process makes.
"""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
import numpy as np
import pyarrow.parquet as pq
from gevent.pool import Group
from load_arrivals import Mix, poisson_arrivals
from load_calls import PRIORITIES, RPCS, LoadCaller, Metadata, Work, open_channel
from load_recorder import Recorder
from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner
from numpy.typing import NDArray

from gloss_api.v1 import gloss_pb2 as pb
from gloss_api.v1 import gloss_pb2_grpc
from gloss_client.credentials import BearerToken, TlsOptions
from gloss_server.embedded import embedded_pair

_POOL_ROWS = 1024
_CONNECT_SECONDS = 10.0
_MOST_THREADS = 4096
"""Under gevent grpc waits for each call in a thread of gevent's pool. Its 10 would leave all calls
but 10 without an ear: refusals of 5 ms were heard after 1.7 s."""


class GlossUser(User):
    """One connection, and the calls on it."""

    wait_time = constant(0)
    _numbers = count()

    def on_start(self) -> None:
        """Connect and wait for the server, so that the first call does not pay for it."""
        options: Any = self.environment.parsed_options
        number = next(self._numbers)
        worker = getattr(self.environment.runner, "worker_index", 0)
        rng = np.random.default_rng([options.seed, worker, number])
        self._mix, self._rng = Mix.parse(options.mix, RPCS), rng
        credentials, metadata = _identity(options)
        self._channel = open_channel(self.environment.host or "127.0.0.1:50051", credentials)
        grpc.channel_ready_future(self._channel).result(timeout=_CONNECT_SECONDS)
        stub: Any = gloss_pb2_grpc.GlossServiceStub(self._channel)
        info = stub.GetModelInfo(
            pb.GetModelInfoRequest(), metadata=metadata, timeout=_CONNECT_SECONDS
        )
        self._caller = LoadCaller(
            self._channel,
            _work(options),
            _activations(options.activations, info),
            rng,
            metadata=metadata,
        )
        self._calls = Group()
        self._recorder.connected()
        self._is_open, self._start = options.mode == "open", time.monotonic()
        self._arrivals = poisson_arrivals(options.rate, rng)

    def on_stop(self) -> None:
        """Let what is in flight end: its latencies count."""
        self._calls.join()
        self._channel.close()

    @task
    def next_call(self) -> None:
        """Wait until the next call is due and make it; in an open loop, without waiting for it."""
        if not self._is_open:
            self._call(self._mix.draw(self._rng), None)
            return
        due = self._start + next(self._arrivals)
        gevent.sleep(max(due - time.monotonic(), 0.0))
        self._calls.spawn(self._call, self._mix.draw(self._rng), due)

    def _call(self, rpc: str, due: float | None) -> None:
        self._recorder.note(self._caller.call(rpc, due))

    @property
    def _recorder(self) -> Recorder:
        recorder: Recorder = self.environment.recorder  # type: ignore[attr-defined]
        return recorder


def _work(options: Any) -> Work:
    return Work(
        items=options.items,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        deadline=options.deadline,
        priority=options.priority,
    )


def _identity(options: Any) -> tuple[grpc.ChannelCredentials | None, Metadata]:
    """Whom the connection trusts, and what its calls show."""
    credentials = None
    if options.ca_file or options.cert_file:
        credentials = TlsOptions(
            ca_file=options.ca_file or None,
            cert_file=options.cert_file or None,
            key_file=options.key_file or None,
        ).credentials()
    token = BearerToken.of(None, options.token_file or None)
    return credentials, () if token is None else token.metadata()


def _activations(path: str, info: Any) -> NDArray[np.float32]:
    """[n, d_model] float32: a file's, the embedded pair's own, else noise of the usual norm."""
    if not path and info.model == "embedded":
        path = str(embedded_pair().activations)
    if path.endswith(".npy"):
        return np.load(path, mmap_mode="r")[:_POOL_ROWS].astype(np.float32)
    if path:
        table = pq.read_table(path, columns=["activation_vector"]).slice(0, _POOL_ROWS)
        values = table["activation_vector"].combine_chunks().flatten().to_numpy()
        return values.reshape(len(table), -1).astype(np.float32)
    rows = np.random.default_rng(0).standard_normal((_POOL_ROWS, info.d_model))
    norm = info.norm_median if info.HasField("norm_median") else np.sqrt(info.d_model)
    rows *= norm / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    """Our options, on Locust's command line and page."""
    group = parser.add_argument_group("gloss", "What is called, and how")
    add = group.add_argument
    add("--mode", choices=("closed", "open"), default="closed", help="see the file's text")
    add("--rate", type=float, default=1.0, help="calls a second of a user, in an open loop")
    add("--mix", default="Verbalize=3,StreamVerbalize=1", help=f"RPC=WEIGHT,.. of {RPCS}")
    add("--items", type=int, default=1, help="activations, texts or tokens of a call")
    add("--samples", type=int, default=1, help="explanations of each")
    add("--max-new-tokens", type=int, default=120, help="most tokens of an explanation")
    add("--deadline", type=float, default=30.0, help="of a call, seconds")
    add("--priority", choices=sorted(PRIORITIES), default="interactive")
    add("--activations", default="", help=".npy or .parquet file; default: made up")
    add("--seed", type=int, default=0, help="of arrivals, rows and draws")
    add("--records", default="", help="file for a line of JSON a call")
    add("--ca-file", default="", help="PEM file of the authorities to trust: TLS")
    add("--cert-file", default="", help="PEM file of the client's certificate: mutual TLS")
    add("--key-file", default="", help="PEM file of its key")
    add("--token-file", default="", help="file with the bearer token")


@events.init.add_listener
def _init(environment: Environment, **_: Any) -> None:
    """Before the first channel, and after the fork of --processes."""
    gevent.get_hub().threadpool.maxsize = _MOST_THREADS
    grpc_gevent.init_gevent()


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        return
    options: Any = environment.parsed_options
    path = Path(options.records) if options.records else None
    num_users = options.num_users or 1
    if type(environment.runner).__name__ == "WorkerRunner":
        # Each process has a file of its own, and is not told how many users it gets.
        num_users = 1
        if path is not None:
            path = path.with_suffix(f".{environment.runner.worker_index}{path.suffix}")
    names = ("mode", "rate", "mix", "items", "samples", "max_new_tokens", "deadline", "priority")
    run = {"pid": os.getpid(), "seed": options.seed, **{n: getattr(options, n) for n in names}}
    environment.recorder = Recorder(  # type: ignore[attr-defined]
        environment, path, run, num_users
    )


@events.test_stop.add_listener
def _end(environment: Environment, **_: Any) -> None:
    recorder: Recorder | None = getattr(environment, "recorder", None)
    if recorder is not None:
        recorder.stop()
