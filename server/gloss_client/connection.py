"""How a client connects and calls: what is the same for threads and for asyncio."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import grpc

from gloss_api.v1 import gloss_pb2 as pb
from gloss_client.address import Address
from gloss_client.credentials import BearerToken, TlsOptions
from gloss_client.deadline import Deadline
from gloss_client.errors import Cancelled, ConfigError, GlossClientError
from gloss_client.retry_policy import RetryPolicy
from gloss_client.status import EndedCall, error_of
from gloss_client.trace import trace_headers

MIB = 1024 * 1024
_CONTRACT = pb.DESCRIPTOR.services_by_name["GlossService"]
SERVICE = _CONTRACT.full_name
UNARY = tuple(method.name for method in _CONTRACT.methods if not method.server_streaming)
# The server takes 32 MiB and its unary replies end at 3; a server may be set to more.
MAX_REPLY_BYTES = 64 * MIB
# gRPC gives up retrying a request over 256 KiB without saying so unless it may keep it: 18
# activations of a 7B model in float32.
RETRY_BUFFER_BYTES = 64 * MIB
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What a client was made with, checked.

    Attributes:
        address: where the servers are.
        tls: how the connection is encrypted; None: not at all.
        token: what calls show; None: nothing.
        allow_plaintext_token: show it though the connection is not encrypted.
        retry: when calls are tried again.
        wait_for_ready: calls wait for a server that serves, up to their deadline.
        timeout: seconds of a call that states none.
        max_in_flight: most calls at once of a batch that does not fit into one.
        pid: the process that may use it.
        closed: set once no call may begin any more, of all connections that were made from it.
    """

    address: Address
    tls: TlsOptions | None
    token: BearerToken | None
    allow_plaintext_token: bool
    retry: RetryPolicy
    wait_for_ready: bool
    timeout: float
    max_in_flight: int
    pid: int = field(default_factory=os.getpid)
    closed: Event = field(default_factory=Event)

    @classmethod
    def of(
        cls,
        address: str | Sequence[str],
        *,
        tls: TlsOptions | None,
        token: str | None,
        token_file: Path | str | None,
        allow_plaintext_token: bool,
        retry: RetryPolicy | None,
        wait_for_ready: bool,
        timeout: float,
        max_in_flight: int,
    ) -> Connection:
        """Checks what a caller gave.

        Raises:
            ConfigError: it cannot work, or would show a token to the network.
        """
        if not 0 < timeout < math.inf:
            raise ConfigError(f"timeout: got {timeout}, expected seconds above 0")
        if max_in_flight < 1:
            raise ConfigError(f"max_in_flight: got {max_in_flight}, expected 1 or more")
        parsed, bearer = Address.parse(address), BearerToken.of(token, token_file)
        if tls and tls.server_name is None and parsed.target.startswith("ipv"):
            raise ConfigError(
                f"tls: server_name is needed with {parsed}: a list of addresses has no one name "
                "that the servers' certificates could hold"
            )
        made = cls(
            address=parsed,
            tls=tls,
            token=bearer,
            allow_plaintext_token=allow_plaintext_token,
            retry=retry or RetryPolicy(),
            wait_for_ready=wait_for_ready,
            timeout=timeout,
            max_in_flight=max_in_flight,
        )
        made.check_token()
        return made

    def with_token(self, token: str) -> Connection:
        """The same with another token.

        Raises:
            ConfigError: no token, or one that would be shown to the network.
        """
        made = replace(self, token=BearerToken.of(token, None))
        made.check_token()
        return made

    def check_token(self) -> None:
        """Refuse to show a token to the network.

        Raises:
            ConfigError: as it says.
        """
        if self.token and not (self.tls or self.address.loopback or self.allow_plaintext_token):
            raise ConfigError(
                f"token: without TLS anyone on the way to {self.address} can read it; give "
                "tls=TlsOptions(...), or allow_plaintext_token=True where something else encrypts"
            )

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline of a call that begins now; None: the usual one."""
        return Deadline.after(self.timeout if timeout is None else timeout)

    def error(
        self, ended: EndedCall, request_id: str | None = None, first_index: int = 0
    ) -> GlossClientError:
        """What a failed call raises; see `error_of`."""
        return error_of(
            ended, address=str(self.address), request_id=request_id, first_index=first_index
        )

    def credentials(self) -> grpc.ChannelCredentials | None:
        """The channel's credentials; None: plaintext."""
        return None if self.tls is None else self.tls.credentials()

    def begin(self, method: Any, request: object, deadline: Deadline) -> Any:
        """Begins a call, as all are begun.

        Args:
            method: gRPC's, which sends the request.
            request: of the contract.
            deadline: of the call.

        Returns:
            What the method returns.

        Raises:
            Cancelled: the client is closed.
            ConfigError: the token file cannot be read any more.
            RuntimeError: this is not the process that made the client.
        """
        if os.getpid() != self.pid:
            raise RuntimeError(
                "this client was made before a fork, and gRPC's threads did not come along; make "
                "the client in the child process"
            )
        self.check_open()
        token = () if self.token is None else self.token.metadata()
        metadata = (*token, *trace_headers())
        try:
            return method(request, timeout=deadline.remaining(), metadata=metadata)
        except ValueError:
            # So gRPC says that another thread has closed the channel since.
            self.check_open()
            raise

    def check_open(self) -> None:
        """Refuse calls of a client that was closed.

        Raises:
            Cancelled: as it says, like a call that was under way then.
        """
        if self.closed.is_set():
            raise Cancelled("this client is closed; make another one")

    def options(self) -> list[tuple[str, str | int]]:
        """The channel's options."""
        options: list[tuple[str, str | int]] = [
            ("grpc.service_config", json.dumps(self.service_config())),
            ("grpc.enable_retries", int(self.retry.max_attempts > 1)),
            ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
            ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            # A long unary call is silent: without this gRPC stops pinging after the second ping.
            ("grpc.http2.max_pings_without_data", 0),
            # A server that restarts is found again within seconds; gRPC's own limit is two minutes.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        if self.address.loopback:
            # http_proxy in the environment is for what is not on this machine.
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def health_options(self) -> list[tuple[str, str | int]]:
        """Options of a channel that asks for health: without the config that avoids NOT_SERVING."""
        return [option for option in self.options() if option[0] != "grpc.service_config"]

    def service_config(self) -> dict[str, object]:
        """Calls go round the servers that say SERVING; unary ones are tried again here.

        Streams are tried again by the client: see `Attempts`.
        """
        usual: dict[str, object] = {"name": [{"service": SERVICE}]}
        unary: dict[str, object] = {
            "name": [{"service": SERVICE, "method": name} for name in UNARY],
            **self.retry.service_config(),
        }
        if self.wait_for_ready:
            usual["waitForReady"] = unary["waitForReady"] = True
        return {
            "loadBalancingConfig": [{"round_robin": {}}],
            # The empty name is the server as a whole, which every health service knows.
            "healthCheckConfig": {"serviceName": ""},
            "methodConfig": [usual, unary],
        }
