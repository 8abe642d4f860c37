"""One run of `quartet bench`: the model and the words are found, the server warmed up, each level measured."""

import asyncio
import signal
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice, takewhile

from app.bench import progress
from app.bench.client import Client, Request
from app.bench.connection import Fault
from app.bench.load import Load
from app.bench.options import Options
from app.bench.outcome import REFUSED
from app.bench.routes import Body
from app.bench.summary import Level, summarize
from app.bench.vocabulary import Vocabulary, find_vocabulary
from app.bench.workload import Wanted, Workload, arrivals, planned

_WARMING_CLIENTS = 8


class Bench:
    """One run. `levels` has what is done of it."""

    def __init__(self, options: Options, lines: Sequence[Wanted]) -> None:
        self.levels: list[Level] = []
        self.is_interrupted = False
        self.model = options.model
        self.vocabulary = Vocabulary()
        self.started = datetime.now(UTC)
        self._options, self._lines = options, lines
        self._path = options.kind.path

    async def run(self) -> None:
        """Until all is done, or until SIGINT; a second one ends it as usual. Raises Fault when it cannot begin."""
        options, loop = self._options, asyncio.get_running_loop()
        headers = {} if options.api_key is None else {"Authorization": f"Bearer {options.api_key}"}
        client = Client(options.url, headers, _tls(options), options.timeout)
        measuring = asyncio.create_task(self._measure(client))
        loop.add_signal_handler(signal.SIGINT, self._interrupt, measuring)
        try:
            await measuring
        except asyncio.CancelledError:
            if not self.is_interrupted:
                raise
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            client.close()

    def _interrupt(self, measuring: asyncio.Task[None]) -> None:
        self.is_interrupted = True
        measuring.cancel()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    async def _measure(self, client: Client) -> None:
        options = self._options
        if self.model is None:
            self.model = await find_model(client, options.kind.task)
        if any(line.prompt is None for line in self._lines or [Wanted()]):
            self.vocabulary = await find_vocabulary(client, self.model)
        work = Workload(
            partial(options.body, self.model),
            self.vocabulary,
            options.drawn_prompt_tokens,
            options.drawn_output_tokens,
            options.seed,
            self._lines,
        )
        levels = options.levels(list(self._lines))
        await self._warm_up(client, work)
        for number, (kind, value) in enumerate(levels, 1):
            await self._level(client, work, kind, value, f"{number}/{len(levels)}")

    async def _warm_up(self, client: Client, work: Workload) -> None:
        count = self._options.warmup
        load = Load(partial(client.ask, self._path))
        await load.closed(islice(work.requests("warm-up"), count), min(count, _WARMING_CLIENTS))
        failed = [one for one in load.outcomes if one.failure not in (None, REFUSED)]
        if count and len(failed) == count:
            raise Fault(str(failed[0].failure), f"{failed[0].failure}: {failed[0].message}")

    async def _level(
        self, client: Client, work: Workload, kind: str, value: float | None, title: str
    ) -> None:
        options, level = self._options, kind if value is None else f"{kind} {value:g}"
        count = len(self._lines[: options.requests]) if kind == "trace" else options.num_requests
        bar = progress.follow(f"{title} {level}", count, options.duration)
        load = Load(partial(client.ask, self._path), bar.ended)
        try:
            if value is None:
                await load.open(_before(islice(work.replayed(), count), options.duration))
            elif kind == "rate":
                moments = arrivals(value, options.arrivals or "poisson", options.seed, level)
                await load.open(planned(work.requests(level), moments, count, options.duration))
            else:
                await load.closed(islice(work.requests(level), count), int(value), options.duration)
        finally:
            bar.close()
            if load.num_sent:
                self.levels.append(summarize(load, kind, value, options.slo))


async def find_model(client: Client, task: str) -> str | None:
    """Quartet's default for the task; elsewhere the first one listed, None where none is. Raises Fault."""
    try:
        cards = _objects(await client.call("GET", "/v1/models"), "data")
        if not any("tasks" in card for card in cards):
            return next((str(card["id"]) for card in cards if "id" in card), None)
        defaults = (await client.call("GET", "/info")).get("default_models", {})
    except Fault as fault:
        raise Fault(fault.kind, f"{fault} (asked for its models; --model names one)") from None
    if task not in defaults:
        raise Fault("model", f"no model there has the task {task!r}")
    return str(defaults[task])


def _objects(answer: Body, name: str) -> list[Body]:
    return [one for one in answer.get(name) or () if isinstance(one, dict)]


def _before(requests: Iterator[Request], seconds: float | None) -> Iterator[Request]:
    return takewhile(lambda request: seconds is None or request.at < seconds, requests)


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.url.scheme != "https":
        return None
    context = ssl.create_default_context()
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
