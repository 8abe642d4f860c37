"""The command line, and `quartet serve`: from flags to a running service, and its end. Exit codes: 0 clean stop, 2
wrong usage or checkpoint (one line on stderr that says what to do), 3 the engine could not be kept alive."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import uvicorn

from app import logs
from app.arguments import make_parser
from app.config import (
    Settings,
    find_cache_dir,
    load_settings,
    read_api_key,
    use_cache_dir,
    use_large_pages,
    with_folders,
)
from app.engine_setup import MakeEngine, build_engine
from app.errors import ConfigError, QuartetError
from app.garbage import collect_when_quiet
from app.kept_files import prepare_folder
from app.metrics import Metrics
from app.registry import Registry, build_registry
from app.security import KeyRing
from app.version import read_version
from model.config import CheckpointError

if TYPE_CHECKING:
    from app.tracing import Tracing

USAGE_ERROR, ENGINE_LOST, INTERRUPTED = 2, 3, 130
FLUSH_SECONDS = (1.0, 5.0)
"""The least and the most that the last traces have to get through, within what is left of the drain limit."""
_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 32
"""Connections, before those that are open get their turn."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    arguments = vars(make_parser(read_version()).parse_args(argv))
    command = arguments.pop("command")
    try:
        if command == "download":
            from app.commands import download

            _keep_files(find_cache_dir())
            return download.run(**arguments)
        if command == "info":
            from app.commands import info

            return info.run(**arguments)
        if command == "train":
            from app.commands import train

            train.run(**arguments)
        if command == "key":
            from app.commands import key

            return key.new(**arguments)
        if command == "bench":
            from app.commands import bench

            arguments["api_key"] = arguments["api_key"] or read_api_key()
            return bench.run(read_version(), **arguments)
        settings = load_settings(arguments)
        _keep_files(settings.cache_dir)
        use_large_pages()
        settings = with_folders(settings, _fetch)
        logs.configure(settings.log_format)
        return asyncio.run(serve(settings))
    except (ConfigError, CheckpointError) as error:
        print(f"quartet: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:  # of a download; serving has its own way to stop
        return INTERRUPTED


def _keep_files(folder: Path | None) -> None:
    """Before any library that keeps files is imported."""
    if folder is None:
        return
    use_cache_dir(folder)
    fault = prepare_folder(folder)
    if fault is not None:
        _say(f"warning: {fault}")


def _fetch(name: str) -> Path:
    from app.commands.download import fetch

    return fetch(name)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: we drain before it stops. asyncio has one number for how many connections
    it accepts in a row and how many may wait for that; here it is the former."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, make_engine: MakeEngine = build_engine) -> int:
    """Runs until a signal or the engine's end. Raises ConfigError or CheckpointError when it cannot start."""
    started = time.perf_counter()
    metrics = Metrics(read_version())
    keys = None if settings.api_key_file is None else KeyRing(settings.api_key_file)
    tracing = None if settings.otlp_endpoint is None else _tracing(settings.otlp_endpoint)
    registry = build_registry(settings, metrics, read_version())
    engine = make_engine(settings, metrics)
    with _listen(settings.host, settings.port) as listener:
        first, second = _signals()
        loading = asyncio.create_task(registry.start(engine))
        await asyncio.sleep(0)  # the engine process starts, beside what is imported and built here
        server = _Server(_server_config(registry, settings, keys, tracing))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stop_by = time.monotonic()
        try:
            await _first_of(loading, first, serving)
            if not loading.done():
                return 0
            await loading
            _tell_start(registry)
            if keys is None and not _is_loopback(settings.host):
                _say("warning: listening beyond this machine without keys; whoever reaches it can use it")
            url = _url(listener, settings.host)
            _say(
                f"ready on {url} after {time.perf_counter() - started:.1f} s (try it in a browser, or {url}/docs)"
            )
            collecting = asyncio.create_task(collect_when_quiet(lambda: len(registry.in_flight.handlers)))
            lost = asyncio.create_task(engine.wait_lost())
            await _first_of(first, serving, lost)
            collecting.cancel()
            if lost.done():
                await lost
            lost.cancel()
            stop_by = time.monotonic() + settings.drain_timeout
            await _drain(registry, settings.drain_timeout, second)
        except QuartetError as error:
            print(f"quartet: {error.message}", file=sys.stderr)
            return ENGINE_LOST
        finally:
            loading.cancel()
            await registry.stop()
            server.should_exit = True
            await serving
            if tracing is not None:
                least, most = FLUSH_SECONDS
                await asyncio.to_thread(tracing.close, min(most, max(least, stop_by - time.monotonic())))
    return 0


def _tracing(endpoint: str) -> "Tracing":
    try:
        from app.tracing import Tracing

        return Tracing(endpoint, read_version())
    except ModuleNotFoundError as absent:
        raise ConfigError(
            f"traces to {endpoint} need the extra `otel` ({absent.name} is not installed): "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        ) from None
    except ValueError as error:  # one of OpenTelemetry's own variables
        raise ConfigError(f"traces: {error}") from None


def _server_config(
    registry: Registry, settings: Settings, keys: KeyRing | None, tracing: "Tracing | None"
) -> uvicorn.Config:
    # half a second that the engine process need not wait for
    from app.main import (
        ConnectionLimits,
        Connections,
        Door,
        allowed_connections,
        build_app,
        build_guard,
        loopback_hosts,
    )

    num_connections = allowed_connections(settings.max_connections)
    if num_connections < settings.max_connections:
        _say(f"warning: at most {num_connections} connections, by the limit on open files (ulimit -n)")
    bounds = ConnectionLimits(settings.head_timeout, settings.write_timeout, num_connections)
    hosts = settings.allowed_hosts
    if hosts is None and _is_loopback(settings.host):
        hosts = loopback_hosts(settings.host)
    guard = build_guard(settings, keys, hosts)
    door = Door(registry, guard, settings.max_timeout, is_traced=tracing is not None)
    connections = Connections(bounds, registry.metrics, door.refuse)
    return uvicorn.Config(
        build_app(registry, settings, guard, tracing),
        http=connections.protocol,  # type: ignore[arg-type]  # makes one, like a class
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )


def _listen(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded, so that a taken port is told at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port or --host"
        ) from None
    # Accepted sockets take it over. asyncio would not set it on a socket that names no protocol, and without it the
    # body of each answer waits some 40 ms for the client's acknowledgement of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket, host: str) -> str:
    port = listener.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _signals() -> tuple["asyncio.Future[None]", "asyncio.Future[None]"]:
    """Done at the first and at the second SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    def note() -> None:
        waiting = [future for future in (first, second) if not future.done()]
        if waiting:
            waiting[0].set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, note)
    return first, second


async def _drain(registry: Registry, seconds: float, impatient: "asyncio.Future[None]") -> None:
    """Waits for the work in flight; a second signal cuts it off."""
    _say(f"stopping: no new work; up to {seconds:g} s for what is in flight")
    draining = asyncio.create_task(registry.in_flight.drain(seconds))
    await _first_of(draining, impatient)
    if not draining.done():
        draining.cancel()
        await registry.in_flight.drain(0.0)
    _say("stopped")


async def _first_of(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _tell_start(registry: Registry) -> None:
    """What was loaded, how long each took, memory."""
    ready = registry.ready
    assert ready is not None
    for info in ready.models:
        tasks = ", ".join(task.name for task in registry.served[info.name].tasks)
        size = f"{info.parameters / 1e6:8.1f} M {info.dtype}"
        size += "" if info.quantization == "none" else f" {info.quantization}"
        on = f" on {info.base}" if info.base else ""
        _say(f"  {info.name:<12} {size:<20} {info.load_seconds:5.2f} s  {tasks}{on}")
    memory = sum(_resident_bytes())
    _say(f"{len(ready.models)} models on {ready.device}, {memory / 2**20:.0f} MiB resident in all processes")


def _resident_bytes() -> list[int]:
    own = psutil.Process()
    sizes = []
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            sizes.append(int(process.memory_info().rss))
    return sizes


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
