"""The command line, and `quartet serve`: from flags to a running service, and its end. Exit codes: 0 clean stop, 2
wrong usage or checkpoint (one line on stderr that says what to do), 3 the engine could not be kept alive."""

import argparse
import asyncio
import contextlib
import gc
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from app import logs
from app.config import Settings, load_settings, read_version, with_folders
from app.errors import ConfigError, QuartetError
from app.metrics import Metrics
from app.registry import Registry, build_engine, build_registry
from model.config import CheckpointError

USAGE_ERROR, ENGINE_LOST, INTERRUPTED = 2, 3, 130
_BACKLOG = 2048


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        if command == "download":
            from app.commands import download

            return download.run(**arguments)
        if command == "info":
            from app.commands import info

            return info.run(**arguments)
        settings = with_folders(load_settings(arguments), _fetch)
        logs.configure(settings.log_format)
        return asyncio.run(serve(settings))
    except (ConfigError, CheckpointError) as error:
        print(f"quartet: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:  # of a download; serving has its own way to stop
        return INTERRUPTED


def _fetch(name: str) -> Path:
    from app.commands.download import fetch

    return fetch(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quartet", description="One engine that serves every Transformer task.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"quartet {read_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve_ = commands.add_parser(
        "serve",
        help="serve models over HTTP",
        description="Serves the packaged models, or those named here. Each flag has an environment name "
        "(--drain-timeout: QUARTET_DRAIN_TIMEOUT) and a line under [server] in the file.",
        allow_abbrev=False,
    )
    add = serve_.add_argument
    add("--config", metavar="FILE", help="models.toml")
    add("--model", action="append", metavar="NAME=PATH", help="a folder, or org/repo[@revision]; repeatable")
    add(
        "--adapter",
        action="append",
        metavar="NAME=BASE:PATH",
        help="a PEFT adapter, PATH as above, on a served model; repeatable",
    )
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=int, help="port, 0 for any free one (8000)")
    add("--device", help="auto, cpu, cuda or cuda:N (auto)")
    add("--dtype", choices=["auto", "float32", "bfloat16", "float16"], help="of the weights (auto)")
    add(
        "--kv-cache-memory",
        type=int,
        metavar="BYTES",
        help="for all models together (a part of what is free)",
    )
    add("--max-model-len", type=int, metavar="TOKENS", help="an upper bound on every model's context")
    add("--token-budget", type=int, metavar="TOKENS", help="most tokens computed in one step (2048)")
    add("--max-sequences", type=int, metavar="N", help="most sequences in one step (256)")
    add(
        "--no-speculation",
        dest="speculation",
        action="store_false",
        default=None,
        help="compute one token at a time",
    )
    add(
        "--no-prefix-cache",
        dest="prefix_cache",
        action="store_false",
        default=None,
        help="compute every prompt anew",
    )
    add(
        "--target-step-ms",
        type=float,
        metavar="MS",
        help="how long a step may take while others wait, 0 for no matter (100 on a CPU, else 0)",
    )
    add(
        "--deterministic",
        action="store_true",
        default=None,
        help="the same tokens in any batch, at some cost; on a CPU",
    )
    add("--threads", type=int, metavar="N", help="threads of the engine on a CPU")
    add("--max-queue-requests", type=int, metavar="N", help="sequences admitted at most (4096)")
    add("--max-queue-tokens", type=int, metavar="TOKENS", help="tokens admitted at most (2000000)")
    add("--max-body-bytes", type=int, metavar="BYTES", help="largest request body (16777216)")
    add("--max-timeout", type=float, metavar="SECONDS", help="longest a request may take (600)")
    add("--drain-timeout", type=float, metavar="SECONDS", help="for work in flight at the end (30)")
    add("--log-format", choices=["text", "json"], help="of the log on stderr (text)")
    _add_checkpoint_commands(commands)
    return parser


def _add_checkpoint_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    info = commands.add_parser(
        "info",
        help="what a checkpoint is, and why it could not be served",
        description="Reads a checkpoint's or an adapter's folder, no weights. Exit code 2 when it cannot be served.",
        allow_abbrev=False,
    )
    info.add_argument("path", metavar="PATH", help="the folder")
    info.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    download = commands.add_parser(
        "download",
        help="fetch a checkpoint from the Hugging Face Hub",
        description="Fetches what serving needs and prints the folder. HF_HOME, HF_TOKEN and HF_HUB_OFFLINE count.",
        allow_abbrev=False,
    )
    download.add_argument("name", metavar="ORG/REPO[@REVISION]", help="branch, tag or commit (main)")
    download.add_argument("--to", metavar="DIR", help="instead of the cache that all of HF's tools share")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: we drain before it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> int:
    """Runs until a signal or the engine's end. Raises ConfigError or CheckpointError when it cannot start."""
    started = time.perf_counter()
    metrics = Metrics(read_version())
    registry = build_registry(settings, metrics, read_version())
    engine = build_engine(settings, metrics)
    with _listen(settings.host, settings.port) as listener:
        first, second = _signals()
        loading = asyncio.create_task(registry.start(engine))
        await asyncio.sleep(0)  # the engine process starts, beside what is imported and built here
        server = _Server(_server_config(registry, settings))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await _first_of(loading, first, serving)
            if not loading.done():
                return 0
            await loading
            _tell_start(registry, _url(listener, settings.host), time.perf_counter() - started)
            gc.freeze()  # what lives as long as the process need not be looked at again
            lost = asyncio.create_task(engine.wait_lost())
            await _first_of(first, serving, lost)
            if lost.done():
                await lost
            lost.cancel()
            await _drain(registry, settings.drain_timeout, second)
        except QuartetError as error:
            print(f"quartet: {error.message}", file=sys.stderr)
            return ENGINE_LOST
        finally:
            loading.cancel()
            await registry.stop()
            server.should_exit = True
            await serving
    return 0


def _server_config(registry: Registry, settings: Settings) -> uvicorn.Config:
    from app.main import Limits, create_app  # half a second that the engine process need not wait for

    limits = Limits(settings.max_body_bytes, settings.body_timeout, settings.max_timeout)
    return uvicorn.Config(
        create_app(registry, limits),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
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
    draining = asyncio.create_task(registry.drain(seconds))
    await _first_of(draining, impatient)
    if not draining.done():
        draining.cancel()
        await registry.drain(0.0)
    _say("stopped")


async def _first_of(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _tell_start(registry: Registry, url: str, seconds: float) -> None:
    """What was loaded, how long it took, memory, where to reach it."""
    ready = registry.ready
    assert ready is not None
    for info in ready.models:
        tasks = ", ".join(task.name for task in registry.served[info.name].tasks)
        size = f"{info.parameters / 1e6:8.1f} M {info.dtype}"
        on = f" on {info.base}" if info.base else ""
        _say(f"  {info.name:<12} {size:<20} {info.load_seconds:5.2f} s  {tasks}{on}")
    memory = sum(_resident_bytes())
    _say(f"{len(ready.models)} models on {ready.device}, {memory / 2**20:.0f} MiB resident in all processes")
    if not _is_loopback(url):
        _say("warning: listening beyond this machine without keys; whoever reaches it can use it")
    _say(f"ready on {url} after {seconds:.1f} s (try {url}/docs)")


def _resident_bytes() -> list[int]:
    own = psutil.Process()
    sizes = []
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            sizes.append(int(process.memory_info().rss))
    return sizes


def _is_loopback(url: str) -> bool:
    host = url.removeprefix("http://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
