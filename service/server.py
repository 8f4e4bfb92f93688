"""The composition root: build the server, start it, drain it, stop it."""

import asyncio
import gc
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cellar.v1 import model_pb2, session_pb2
from models.errors import ModelError
from models.repository import ModelRepository
from service.engine.engine import Engine
from service.engine.execution.devices import choose
from service.engine.execution.runtime import CPU, DeviceError, Place
from service.loading import Loader
from service.logs import configure_logs
from service.metrics import Metrics, MetricsPage
from service.rpc import reflection as reflection_rpc
from service.rpc.calls import Calls
from service.rpc.health import HealthServicer
from service.rpc.native import models as model_rpc
from service.rpc.native import sessions as session_rpc
from service.settings import Settings, read_settings

_log = structlog.get_logger("cellar")
_SERVICES = (
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_EXPIRY_PERIOD_S = 1.0
_LAST_WORDS_S = 0.5  # for the statuses of calls that run out of time
_QUIET_S = 1.0  # for what calls leave behind, however short the drain timeout


class Server:
    """A whole server.

    Args:
        settings: everything that can be set.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.engine = Engine(settings, self.metrics)
        self.port = settings.port
        self.metrics_port: int | None = None
        self.places: tuple[Place, ...] = (CPU,)
        self._health = HealthServicer()
        self._grpc = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_concurrent_streams", settings.max_connection_calls),
                ("grpc.so_reuseport", 0),  # a second server on the port is a mistake: say so
            ],
        )
        calls = Calls(self._grpc, self.metrics)
        self._sessions = session_rpc.add_to(calls, self.engine)
        model_rpc.add_to(calls, self.engine)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._reflection = (
            reflection_rpc.add_to(self._grpc, (*_SERVICES, "grpc.health.v1.Health"))
            if settings.reflection
            else None
        )
        self._expiry: asyncio.Task[None] | None = None
        self._page: MetricsPage | None = None

    async def start(self) -> None:
        """Listen, load every model, and only then say that the server is serving.

        When it fails or is cancelled, nothing is left running; a model that is being loaded is
        loaded to its end before that.

        Raises:
            DeviceError: a device that was asked for cannot be used.
            ModelError: a model cannot be served, or there is none.
            OSError: a port is taken.
        """
        try:
            await self._choose_device()  # before anything else is started
            await self._start()
        except BaseException:
            await self._grpc.stop(grace=None)
            self._close()
            raise

    async def _start(self) -> None:
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        address = _address(self.settings.host, self.settings.port)
        _check_free(self.settings.host, self.settings.port)
        try:
            self.port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self._grpc.start()
        if self.settings.metrics_port is not None:
            self._page = self._serve_metrics(self.settings.metrics_port)
            self.metrics_port = self._page.port
        await self._load()
        self.engine.loading = False
        self._expiry = asyncio.create_task(self._expire())
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        _log.info(
            "serving",
            device=self._devices,
            host=self.settings.host,
            port=self.port,
            metrics_port=self.metrics_port,
            models=[f"{served.name}/{served.version}" for served in self.engine.registry.all()],
        )

    async def _load(self) -> None:
        with ThreadPoolExecutor(max_workers=1) as pool:  # the loop keeps answering health checks
            loader = Loader(self.engine, self.settings, self.places, pool)
            await loader.load(ModelRepository(self.settings.models))

    async def _choose_device(self) -> None:
        loop = asyncio.get_running_loop()
        choice = await loop.run_in_executor(None, choose, self.settings.device)
        self.places = choice.places
        for place in choice.places:
            self.metrics.device_info.labels(str(place), place.provider).set(1)
        reason = {} if choice.reason is None else {"no_gpu": choice.reason}
        _log.info(
            "device",
            device=self._devices,
            provider=choice.places[0].provider,
            asked=self.settings.device,
            **reason,
        )

    @property
    def _devices(self) -> str:
        return ",".join(map(str, self.places))

    async def stop(self) -> None:
        """Drain: refuse what is new, finish what runs, then stop."""
        _log.info("draining", timeout_s=self.settings.drain_timeout_s)
        self.engine.draining = True
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._expiry is not None:
            self._expiry.cancel()
        self._health.end_watches()
        if self._reflection is not None:
            self._reflection.end_calls()
        self._sessions.end_streams()
        grace_s = self.settings.drain_timeout_s
        # Calls that run out of time are told why, instead of being cut.
        last = asyncio.get_running_loop().call_later(
            max(0.0, grace_s - _LAST_WORDS_S), self._sessions.cut_calls
        )
        await self._grpc.stop(grace=max(grace_s, _LAST_WORDS_S))
        last.cancel()
        # No call is left, and their steps are cancelled: what runs now is the last batch.
        timeout_s = max(self.settings.drain_timeout_s, _QUIET_S)
        try:
            await asyncio.wait_for(self.engine.drain(), timeout_s)
        except TimeoutError:
            pending = {
                f"{served.name}/{served.version}": served.usage.pending_steps
                for served in self.engine.registry.all()
            }
            _log.error("work is left behind", waited_s=timeout_s, pending_steps=pending)
        self._close()
        _log.info("stopped")

    def _close(self) -> None:
        """End the threads."""
        self.engine.stop()
        if self._page is not None:
            self._page.close()
            self._page = None

    def _serve_metrics(self, port: int) -> MetricsPage:
        host = self.settings.host
        try:
            return MetricsPage(self.metrics, host, port)
        except OSError as error:
            raise OSError(
                f"cannot listen on {_address(host, port)} for metrics ({error.strerror}): choose "
                "another --metrics-port, or off for none"
            ) from error

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRY_PERIOD_S)
            self.engine.directory.expire()

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_free(host: str, port: int) -> None:
    """Say why a port cannot be had: gRPC's core writes that to stderr, and tells nobody."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise OSError(f"cannot listen on {_address(host, port)}: {reason}") from error


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a server that still loads its models just ends."""
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    server = Server(settings)
    starting = asyncio.create_task(server.start())
    stopping = asyncio.create_task(signalled.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _settle_memory()
            await stopping
            await server.stop()
        else:
            _log.info("stopping before the models are loaded")
            starting.cancel()
            await asyncio.wait((starting,))
            if not starting.cancelled():
                starting.result()
            _log.info("stopped")
    finally:
        starting.cancel()
        stopping.cancel()


def _settle_memory() -> None:
    """Look for garbage less often: what was loaded stays, and a step leaves no cycles behind.

    A collection walks over every open session; a million of them take long.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def main(arguments: list[str] | None = None) -> None:
    """Run ``cellar-serve``."""
    settings = read_settings(sys.argv[1:] if arguments is None else arguments)
    configure_logs(settings)
    try:
        _run(settings)
    except (DeviceError, ModelError, OSError) as error:
        print(f"cellar-serve: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except MemoryError:
        print(
            f"cellar-serve: there is not enough memory for {settings.max_sessions} sessions of "
            "every model: lower --max-sessions",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


def _run(settings: Settings) -> None:
    try:
        import uvloop
    except ImportError:  # not on every platform; asyncio's own loop serves too
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
