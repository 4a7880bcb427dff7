"""`gloss serve`: the front's process from its first to its last moment.

start    listen, start the engine, say ready when it has loaded and warmed up
serve    until a signal, or until the engine cannot be kept alive
drain    health says NOT_SERVING, calls in flight end, then everything closes
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from collections.abc import Sequence

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gloss_api.v1 import gloss_pb2 as pb
from gloss_server import __version__
from gloss_server.address import Address
from gloss_server.command_error import CommandError
from gloss_server.front import descriptors
from gloss_server.front.authentication import Authentication
from gloss_server.front.call_error import CallError
from gloss_server.front.call_log import CallLog
from gloss_server.front.dispatcher import Dispatcher
from gloss_server.front.engine_order import engine_order, supervisor_policy
from gloss_server.front.handlers import Handlers
from gloss_server.front.health import Health
from gloss_server.front.metrics_server import MetricsServer
from gloss_server.front.ports import check_free, grpc_options
from gloss_server.front.safe_parsing import SafeParsing
from gloss_server.front.security import Security
from gloss_server.front.service import GlossService
from gloss_server.front.spans import open_spans
from gloss_server.front.stream_writer import StreamWriter
from gloss_server.front.telemetry import Telemetry
from gloss_server.front.text_service import TextService
from gloss_server.front.unread import Unread
from gloss_server.link.messages import Failed, Loaded, StepReport, WarmingUp
from gloss_server.link.supervisor import WORKER, Supervisor
from gloss_server.settings import ServeSettings
from gloss_server.terminal import visible

SERVICE = pb.DESCRIPTOR.services_by_name["GlossService"].full_name
ADMIN_CONNECTIONS = 64
"""On the admin port: probes are few, and whoever else reaches it takes no callers' descriptors."""
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_LIVENESS = "liveness"
"""What health knows the front by: serving as long as it answers, whatever the engine does."""
_POLL_SECONDS = 0.02
_CLOSE_SECONDS = 0.2
_STDOUT = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(settings: ServeSettings, worker: Sequence[str] = WORKER) -> int:
    """Run a server until it is told to end.

    Args:
        settings: what it is told.
        worker: command of the engine's process.

    Returns:
        The process' exit status.

    Raises:
        CommandError: settings, checkpoints or addresses that cannot be used; a crash loop.
    """
    return uvloop.run(Server(settings, worker).run())


class Server:
    """One server.

    Args:
        settings: what it is told.
        worker: command of the engine's process.
    """

    def __init__(self, settings: ServeSettings, worker: Sequence[str] = WORKER) -> None:
        self._settings = settings
        self._log = CallLog(settings.log_level, settings.log_explanations)
        self._telemetry = Telemetry()
        self._security = Security(settings, self._log)
        self._dispatcher = Dispatcher(settings, self._telemetry, self._log, self._security.own_rate)
        self._spans = open_spans(settings, self._log, SERVICE)
        self._handlers = Handlers(
            self._telemetry,
            self._log,
            settings.default_deadline_seconds,
            {"Watch": settings.watch_deadline_seconds},
            self._dispatcher.requests,
            self._spans,
        )
        self._supervisor = Supervisor(
            engine_order(settings), self, supervisor_policy(settings), worker
        )
        self._dispatcher.connect(self._supervisor)
        metrics = self._telemetry.metrics
        metrics.read_lines_lost(lambda: self._log.num_lost)
        metrics.read_engine_process(lambda: self._supervisor.pid)
        self._health = Health()
        self._servers: list[grpc.aio.Server] = []
        self._bound: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._signals = asyncio.Event()
        self._is_ready = False

    async def run(self) -> int:
        """Serve until a signal; the exit status."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signals.set)
        given = self._settings.given
        self._log.lifecycle("starting", version=__version__, pid=os.getpid(), **given)
        metrics = None
        engine: asyncio.Task[None] | None = None
        close_seconds = _CLOSE_SECONDS
        try:
            await self._health.set(_LIVENESS, _SERVING)
            await self._set_health(_NOT_SERVING)
            self._raise_descriptor_limit()
            await self._listen()
            if self._settings.metrics_address:
                address = Address.parse(self._settings.metrics_address)
                metrics = MetricsServer(self._telemetry.metrics.registry, address)
                self._bound["metrics"] = str(address.with_port(metrics.port))
            self._log.lifecycle("engine_loading")
            engine = asyncio.create_task(self._supervisor.run())
            signalled = asyncio.create_task(self._signals.wait())
            await asyncio.wait((engine, signalled), return_when=asyncio.FIRST_COMPLETED)
            signalled.cancel()
            if not engine.done():
                close_seconds = await self._drain()
        finally:
            try:
                await self._close(engine, close_seconds)
            finally:
                if metrics is not None:
                    metrics.close()
                self._log.lifecycle("stopped")
                self._log.close()
        return 0

    def engine_warming_up(self, warming_up: WarmingUp) -> None:
        """See Listener."""
        self._log.lifecycle("engine_warming_up", load_seconds=warming_up.load_seconds)

    def engine_loaded(self, loaded: Loaded) -> None:
        """See Listener."""
        self._dispatcher.engine_loaded(loaded)
        if self._spans is not None:
            self._spans.fingerprint = loaded.info.fingerprint
        if not self._signals.is_set():
            self._tell_health(_SERVING)
        if not self._is_ready:
            self._is_ready = True
            self._say_ready()

    def engine_reported(self, report: StepReport) -> None:
        """See Listener."""
        self._dispatcher.engine_reported(report)

    def engine_failed(self, failed: Failed) -> None:
        """See Listener."""
        self._log.lifecycle("engine_failed", reason=failed.message, traceback=failed.traceback)

    def engine_lost_spans(self, reason: str) -> None:
        """See Listener."""
        self._log.lifecycle("spans_lost", process="engine", reason=reason)

    def engine_died(self, reason: str, restarts_in: float | None) -> None:
        """See Listener."""
        self._tell_health(_NOT_SERVING)
        self._dispatcher.engine_died(reason, restarts_in)

    async def _listen(self) -> None:
        """Open the service's port, and the admin port if there is one."""
        clients = self._security.clients
        guards = () if clients is None else (Authentication(clients, self._handlers),)
        unread = Unread(self._telemetry, self._log)
        server = self._make_server(self._settings.max_connections, (*guards, unread))
        streams = StreamWriter(self._settings.max_unread_bytes)
        service = GlossService(self._settings, self._dispatcher, self._telemetry, streams)
        texts = TextService(self._settings, self._dispatcher, streams)
        methods = service.methods() | texts.methods()
        server.add_generic_rpc_handlers((self._handlers.generic(methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflects:
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        # The first handler that knows a method takes it.
        server.add_generic_rpc_handlers((self._handlers.unknown(),))
        address = Address.parse(self._settings.address, unix=True)
        await self._open(server, "address", address, self._security.credentials)
        if self._settings.admin_address is not None:
            # In the clear and for everybody: nothing but health is there.
            admin = self._make_server(ADMIN_CONNECTIONS)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, admin)
            await self._open(admin, "admin", Address.parse(self._settings.admin_address))

    def _make_server(
        self, max_connections: int, guards: Sequence[grpc.aio.ServerInterceptor] = ()
    ) -> grpc.aio.Server:
        options = grpc_options(self._settings, max_connections)
        return grpc.aio.server(interceptors=(*guards, SafeParsing()), options=options)

    async def _open(
        self,
        server: grpc.aio.Server,
        name: str,
        address: Address,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        flag = "--address" if name == "address" else "--admin-address"
        try:
            check_free(address)
            if credentials is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), credentials)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "gRPC cannot bind it"
            raise CommandError(
                f"{flag} {address}: cannot listen there: {reason}. Name another address (port 0 "
                "lets the system choose), or stop what listens there"
            ) from error
        await server.start()
        self._servers.append(server)
        self._bound[name] = str(address if address.path else address.with_port(port))

    def _raise_descriptor_limit(self) -> None:
        """Have a file descriptor for each connection that may be open."""
        num_needed = self._settings.max_connections + descriptors.OWN
        if self._settings.admin_address is not None:
            num_needed += ADMIN_CONNECTIONS
        limit = descriptors.raise_limit(num_needed)
        if limit < num_needed:
            self._log.lifecycle(
                "few_file_descriptors",
                got=limit,
                expected=num_needed,
                fix="raise the hard limit (ulimit -Hn, LimitNOFILE), or lower max_connections",
            )

    def _say_ready(self) -> None:
        """The one line on stdout, with the actual ports."""
        model = self._dispatcher.served().model
        facts = {**self._bound, "model": shlex.quote(visible(model))}
        line = " ".join(f"{name}={value}" for name, value in facts.items())
        # Who cannot read it is served all the same: the log says it, too.
        with contextlib.suppress(OSError):
            os.write(_STDOUT, f"gloss ready: {line}\n".encode())
        self._log.lifecycle("ready", model=model, **self._bound)

    async def _drain(self) -> float:
        """Let calls in flight end, and others go elsewhere first; the seconds that are left for
        what their clients have not read yet."""
        settings = self._settings
        self._signals.clear()
        self._log.lifecycle("draining", num_calls=self._handlers.num_calls)
        self._telemetry.engine_state("draining")
        await self._health.enter_graceful_shutdown()
        began = time.monotonic()
        while time.monotonic() < began + settings.drain_seconds and not self._signals.is_set():
            await asyncio.sleep(_POLL_SECONDS)
        self._dispatcher.is_draining = True
        began = time.monotonic()
        while self._handlers.num_calls:
            if time.monotonic() > began + settings.grace_seconds or self._signals.is_set():
                self._dispatcher.end_all(
                    CallError(
                        "DRAINING",
                        "the server was shut down before the call was finished; try another",
                        retry_after=0.0,
                    )
                )
                return _CLOSE_SECONDS
            await asyncio.sleep(_POLL_SECONDS)
        return max(began + settings.grace_seconds - time.monotonic(), _CLOSE_SECONDS)

    async def _close(self, engine: asyncio.Task[None] | None, seconds: float) -> None:
        """Close ports first, the engine last; raises what the engine ended with."""
        for task in self._tasks:
            task.cancel()
        self._health.close()
        await asyncio.gather(*(self._stop(server, seconds) for server in self._servers))
        self._supervisor.stop()
        flushing = None
        if self._spans is not None:
            flushing = asyncio.create_task(asyncio.to_thread(self._spans.close))
        try:
            if engine is not None:
                await engine
        finally:
            if flushing is not None:
                await flushing

    async def _stop(self, server: grpc.aio.Server, seconds: float) -> None:
        """Close a server's port. What it has sent and its clients have not read has so long, or
        until another signal."""
        stopping = asyncio.create_task(server.stop(seconds))
        hurried = asyncio.create_task(self._signals.wait())
        await asyncio.wait((stopping, hurried), return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        await server.stop(_CLOSE_SECONDS)
        await stopping

    def _tell_health(self, status: int) -> None:
        task = asyncio.create_task(self._set_health(status))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _set_health(self, status: int) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, status)
