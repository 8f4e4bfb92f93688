"""The composition root: build the server, start it, drain it, stop it."""

if __name__ == "__main__":  # before anything that takes long is imported
    from service import process

    process.prepare()

import asyncio
import atexit
import gc
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from pathlib import Path
from ssl import SSLContext
from typing import NoReturn, TextIO, cast

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc

from cellar.v1 import model_pb2, session_pb2
from models.errors import ModelError
from models.repository import ModelRepository
from service import checking, process
from service.auth import tool
from service.auth.file import TokenFileError
from service.endpoint import Endpoint
from service.engine.calls.snapshots.key import SnapshotKeyError
from service.engine.engine import Engine
from service.engine.execution.devices import choose
from service.engine.execution.runtime import CPU, DeviceError, DeviceLostError, Place
from service.errors import SessionLimitError, StoreUnavailableError
from service.health import Health
from service.http.pages import pages_of
from service.http.server import HttpServer
from service.loading import Loader
from service.logs import Lines, configure_logs
from service.metrics import Metrics
from service.resources import (
    certificates_of,
    open_access,
    open_store,
    room_for_connections,
    show_disk,
    snapshot_key_of,
)
from service.rpc import reflection as reflection_rpc
from service.rpc.accept_queue import core_options
from service.rpc.call_log import CallLog
from service.rpc.calls import Calls
from service.rpc.connections import connection_options
from service.rpc.credentials import credentials_of
from service.rpc.health import HealthServicer
from service.rpc.listener import Listener, keepalive_options
from service.rpc.native import models as model_rpc
from service.rpc.native import sessions as session_rpc
from service.settings import Reading, Settings
from service.settings.exposure import exposures
from service.settings.reading import read_or_exit
from service.store.store import StoreError
from service.tls.files import TlsError

_log = structlog.get_logger("cellar")
_SERVICES = (
    session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
    model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)
_EXPIRY_PERIOD_S = 1.0
_MOST_METADATA = 32 * 2**10  # bytes: the longest id, percent-encoded, and what proxies add
_EXPIRY_PAUSE_S = 0.005  # between parts of it, which take about as long
# How long the end may take when no call is left: for the status of calls that are cut off, for
# clients that end their connections well, for the last batch, for the threads.
_LAST_WORDS_S = 0.5  # of the drain: to end streams and generations
_LAST_WORD_S = 0.3
_GOODBYE_S = 0.4
_QUIET_S = 0.5
_THREADS_S = 0.6
_LAST_LINES_S = 0.5  # for a log that nobody reads


class Server:
    """A whole server.

    Args:
        settings: everything that can be set.

    Raises:
        StoreError: the store that they name cannot be used.
        TlsError: the certificate and the key that they name cannot be.
        TokenFileError: the file of tokens cannot be used.
        SnapshotKeyError: the file of the key cannot be.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._certificates = tls = certificates_of(settings, self.metrics)
        self.access = open_access(settings, self.metrics)
        snapshot_key = snapshot_key_of(settings)
        self._store = open_store(settings)
        if self._store is not None:
            show_disk(self.metrics, settings.store)
        self.engine = Engine(settings, self.metrics, store=self._store, snapshot_key=snapshot_key)
        self.port = settings.port
        self.metrics_port: int | None = None
        self.places: tuple[Place, ...] = (CPU,)
        self.health = Health(self.engine)
        self._health = HealthServicer(self.health, _SERVICES)
        self._calls = Calls(
            self.metrics,
            max_queue_s=settings.max_queue_s,
            others=self._other_calls,
            receive_timeout_s=settings.receive_timeout_s,
            settle=None if self.engine.log is None else self.engine.log.flush,
            log=CallLog(settings, self.metrics.refusals),
            access=self.access,
        )
        self._sessions = session_rpc.add_to(self._calls, self.engine)
        model_rpc.add_to(self._calls, self.engine)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._calls)
        self._reflection = (
            reflection_rpc.servicer_of((*_SERVICES, "grpc.health.v1.Health"))
            if settings.reflection
            else None
        )
        self._listener = Listener(
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_concurrent_streams", settings.max_connection_calls),
                ("grpc.so_reuseport", 0),  # a second server on the port is a mistake: say so
                ("grpc.max_metadata_size", _MOST_METADATA),
                *connection_options(
                    room_for_connections(settings),
                    handshake_timeout_s=settings.handshake_timeout_s,
                    max_idle_s=settings.max_connection_idle_s,
                ),
                *keepalive_options(settings.keepalive_s, settings.min_ping_s),
                *core_options(is_exposed=not Endpoint(settings.host, settings.port).is_loopback),
            ],
            add=self._add_services,
            stray=self._calls.end_stray,
            credentials=None if tls is None else lambda: credentials_of(tls),
        )
        self._expiry: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None  # of the file of tokens
        self._http: HttpServer | None = None

    def _other_calls(self) -> int:
        """Calls that run and are not counted by `Calls`."""
        reflection = 0 if self._reflection is None else self._reflection.running
        return self._health.watching + reflection

    def _add_services(self, server: grpc.aio.Server) -> None:
        self._calls.add_gate_to(server)
        if self._reflection is not None:
            reflection_rpc.add_to(server, self._reflection, is_guarded=self._calls.is_guarded)
        self._calls.add_to(server)

    async def start(self) -> None:
        """Listen, load every model, and only then say that the server is serving.

        When it fails or is cancelled, nothing is left running but the thread that loads a model:
        it ends when the model is loaded.

        Raises:
            DeviceError: a device that was asked for cannot be used.
            ModelError: no model can be served, or there is none; with ``strict``, one cannot be.
            OSError: a port is taken.
            SessionLimitError: the store has more sessions than there is room for.
        """
        try:
            await self._choose_device()  # before anything else is started
            await self._start()
        except BaseException:
            await self._listener.stop(0)
            await self._end(self._close_http)
            await self._end(self.engine.stop)
            self._stop_watches()
            self._close_store()
            raise

    async def _start(self) -> None:
        if self._certificates is not None:
            self._certificates.start()
        self.port = await self._listener.start(Endpoint(self.settings.host, self.settings.port))
        if self.settings.metrics_port is not None:
            self._http = self._serve_http(self.settings.metrics_port)
            self.metrics_port = self._http.port
        self._beat = asyncio.create_task(self.health.beat())
        if self.access is not None:
            self._watch = asyncio.create_task(self.access.watch())
        await self._load()
        self.engine.restore_sessions()
        self._tell_of_nobodys()
        self.engine.loading = False
        self._expiry = asyncio.create_task(self._expire())
        self.health.look()
        _log.info(
            "serving",
            device=self._devices,
            host=self.settings.host,
            port=self.port,
            metrics_port=self.metrics_port,
            **({"metrics_host": host} if (host := self.settings.metrics_host) else {}),
            models=[f"{served.name}/{served.version}" for served in self.engine.registry.all()],
            **self._unavailable(),
        )

    def _tell_of_nobodys(self) -> None:
        """Say who finds the sessions of before there were tokens: admins alone."""
        sessions = self.engine.directory.open_sessions("")
        if self.access is not None and sessions:
            _log.warning(
                "sessions without an owner",
                sessions=sessions,
                says="they were opened without tokens: an admin alone finds them, see "
                "cellar sessions --owner ''",
            )

    def _unavailable(self) -> dict[str, list[str]]:
        """For the log: the models that are not served, if there are any."""
        found = self.engine.registry.unavailable()
        names = [f"{model.name}/{model.version or '?'}" for model in found]
        return {"unavailable": names} if names else {}

    async def _load(self) -> None:
        pool = ThreadPoolExecutor(max_workers=1)  # the loop keeps answering health checks
        try:
            loader = Loader(self.engine, self.settings, self.places, pool)
            most = self.settings.max_model_bytes
            await loader.load(ModelRepository(self.settings.models, most_bytes=most))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # who has to end does not wait for it

    async def _choose_device(self) -> None:
        loop = asyncio.get_running_loop()
        choice = await loop.run_in_executor(None, choose, self.settings.device)
        self.places = choice.places
        for place in choice.places:
            self.metrics.device_info.labels(str(place), place.provider).set(1)
        self.metrics.device_fallback.set(choice.sign is not None)
        reason = {} if choice.reason is None else {"no_gpu": choice.reason}
        tell = _log.info
        if choice.sign is not None:  # a GPU is paid for, and is not used
            tell = _log.warning
            reason |= {
                "gpu_seen": choice.sign,
                "mend": "pip install 'cellar[serve,cuda]', or say --device cpu",
            }
        tell(
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
        """Drain: refuse what is new, finish what runs, then stop.

        New calls are told so for as long as anything runs, and for ``drain_delay_s`` at least.
        What still runs after ``drain_timeout_s`` is told that it is cut off, and at once where the
        store has failed. Connections are not waited for, only calls.
        """
        settings, loop = self.settings, asyncio.get_running_loop()
        _log.info("draining", timeout_s=settings.drain_timeout_s, delay_s=settings.drain_delay_s)
        delayed_until = loop.time() + settings.drain_delay_s
        self.engine.draining = True
        self._calls.drain()
        self.health.look()
        if self._expiry is not None:
            self._expiry.cancel()
        self._health.end_watches()
        if self._reflection is not None:
            self._reflection.end_calls()
        self._sessions.end_streams()
        log = self.engine.log
        # Calls that wait for a store that has failed would wait for ever.
        waits_s = 0.0 if log is not None and log.is_failed else settings.drain_timeout_s
        if not await self._ended(waits_s - _LAST_WORDS_S):
            # Those that run out of time are told why, with what the device has been given.
            _log.warning("calls are cut off", calls=self._calls.running)
            self._sessions.cut_calls()
            if not await self._ended(min(_LAST_WORDS_S, waits_s)):
                await self._calls.cut_off(within_s=_LAST_WORD_S)
        await asyncio.sleep(delayed_until - loop.time())
        await self._listener.stop(_GOODBYE_S)
        # No call is left, and their steps are cancelled: what runs now is the last batch.
        try:
            await asyncio.wait_for(self.engine.drain(), _QUIET_S)
        except StoreUnavailableError:
            pass  # which has been logged
        except TimeoutError:
            pending = {
                f"{served.name}/{served.version}": served.usage.pending_steps
                for served in self.engine.registry.all()
            }
            _log.error("work is left behind", waited_s=_QUIET_S, pending_steps=pending)
        await self._settle_store()
        # The last to go: it says until then that the process is alive, and what became of it.
        await asyncio.gather(self._end(self._close_http), self._end(self.engine.stop))
        self._stop_watches()
        self._close_store()
        self._calls.log.tell(all_of_them=True)
        _log.info("stopped")

    async def _settle_store(self) -> None:
        """Leave nothing for the next start to read again."""
        try:
            if not await self.engine.settle_store(self.settings.drain_timeout_s):
                _log.warning("not every session has a checkpoint: the next start takes longer")
        except (StoreError, StoreUnavailableError) as error:
            _log.error("the store could not be settled", reason=str(error))

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()

    async def _ended(self, within_s: float) -> bool:
        """Wait so long for calls to end; whether none is left."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._calls.ended(), max(0.0, within_s))
        return not self._calls.running

    async def _end(self, close: Callable[[], None]) -> None:
        """End threads, if they end soon; the process does not wait for them."""
        closing = asyncio.create_task(asyncio.to_thread(close))
        await asyncio.wait((closing,), timeout=_THREADS_S)

    def _stop_watches(self) -> None:
        for task in (self._beat, self._watch):
            if task is not None:
                task.cancel()
        if self._certificates is not None:
            self._certificates.stop()

    def _close_http(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def _serve_http(self, port: int) -> HttpServer:
        endpoint = Endpoint(self.settings.metrics_host or self.settings.host, port)
        if self.settings.metrics_host is None and endpoint.path is not None:
            endpoint = Endpoint("127.0.0.1", port)
        pages = pages_of(self.health, self.metrics.registry, access=self.access)
        try:
            return HttpServer(pages, endpoint, tls=self._context)
        except OSError as error:
            another = "--metrics-port" if endpoint.path is None else "--metrics-host"
            raise OSError(
                f"metrics: {error}; choose another {another}, or --metrics-port off for none"
            ) from error

    def _context(self) -> SSLContext | None:
        """What TLS is served with over HTTP, for the next connection."""
        return None if self._certificates is None else self._certificates.current.context

    async def _expire(self) -> None:
        while True:
            more = 0
            try:
                more = self.engine.directory.expire()
                self._calls.log.tell()
                self._calls.cut_slow()
            except Exception:  # memory may be short: sessions must expire all the more
                _log.exception("expiry failed")
            await asyncio.sleep(_EXPIRY_PAUSE_S if more else _EXPIRY_PERIOD_S)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a server that still loads its models just ends.

    Raises:
        DeviceLostError: a device has failed for good.
        DeviceError, ModelError, OSError, SessionLimitError, StoreError, TlsError: see `Server`.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(asked.set)

    def hang_up() -> None:
        loop.call_soon_threadsafe(_log.info, "SIGHUP is ignored: to read settings, start anew")

    with process.signals(end=end, hang_up=hang_up):
        server = Server(settings)
        starting = asyncio.create_task(server.start())
        stopping = asyncio.create_task(asked.wait())
        losing = asyncio.create_task(server.engine.failed.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                _settle_memory()
                await asyncio.wait((stopping, losing), return_when=asyncio.FIRST_COMPLETED)
                await server.stop()
                if losing.done():
                    failure = server.engine.failure
                    raise DeviceLostError(f"{failure}: start the server anew; see its log")
            else:
                _log.info("stopping before the models are loaded")
                starting.cancel()
                await asyncio.wait((starting,), timeout=_THREADS_S)
                if starting.done() and not starting.cancelled():
                    starting.result()
                _log.info("stopped")
        finally:
            starting.cancel()
            stopping.cancel()
            losing.cancel()


def _settle_memory() -> None:
    """Look for garbage less often: what was loaded stays, and a step leaves no cycles behind.

    A collection walks over every open session; a million of them take long.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run ``cellar-serve``; it ends the process."""
    out, err = Lines(1), Lines(2)
    sys.stderr = cast(TextIO, err)
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["token"]:
        raise SystemExit(tool.main(arguments[1:]))
    for lines in (out, err):  # of a start that fails, when everything else has been said
        atexit.register(lines.settle, _LAST_LINES_S)
    reading = read_or_exit(arguments)
    settings = reading.settings
    if reading.check:
        _leave(_check(reading, out, err), out, err)
    configure_logs(settings, out)
    _tell(reading)
    try:
        _run(settings)
    except DeviceLostError as error:
        print(f"cellar-serve: {error}", file=sys.stderr)
        # To take leave of a device that has failed may hang, and a supervisor waits for the end.
        _leave(1, out, err)
    except (
        DeviceError,
        ModelError,
        OSError,
        StoreError,
        SessionLimitError,
        SnapshotKeyError,
        TlsError,
        TokenFileError,
    ) as error:
        print(f"cellar-serve: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except MemoryError:
        print(
            f"cellar-serve: there is not enough memory for {settings.max_sessions} sessions of "
            "every model: lower --max-sessions",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    _leave(0, out, err)


def _check(reading: Reading, out: Lines, err: Lines) -> int:
    """Check instead of serving; what is found is printed, and only who looks for more has a log."""
    is_asked = reading.settings.log_level == "debug"
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 (for the rest of the process)
    configure_logs(reading.settings, err if is_asked else nowhere)
    guarded = process.signals(end=lambda: os._exit(1), hang_up=lambda: None)
    with guarded, redirect_stdout(out):  # which does not mind when whoever reads has read enough
        return asyncio.run(checking.check(reading))


def _tell(reading: Reading) -> None:
    """Let the log say with which settings the server starts, and where they came from."""
    for warning in reading.warnings:
        _log.warning("setting without effect", says=warning)
    for exposure in exposures(reading.settings):
        _log.warning("exposed", says=exposure)
    _log.info("settings", **(reading.told() or {"flags": {}}))
    _log.debug("all settings", **reading.settings.model_dump(mode="json"))


def _leave(status: int, *logs: Lines) -> NoReturn:
    """End the process; Python's own end would wait for threads, and gRPC's for connections."""
    for lines in logs:
        lines.settle(_LAST_LINES_S)
    os._exit(status)


def _run(settings: Settings) -> None:
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        runner.run(serve(settings))
    except BaseException:
        runner.close()
        raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on every platform; asyncio's own loop serves too
        return asyncio.new_event_loop
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
