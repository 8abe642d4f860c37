"""What clients notice when the engine process is killed again and again under load: errors, other answers, pauses."""

import asyncio
import random
import time
from collections.abc import Sequence

from benchmarks.connection import Body, Connection
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import Service
from benchmarks.workloads import sentences

NUM_CLIENTS = 64
MOST_SECONDS = 6.0
"""From the death of the engine to the first 200 of /ready, with the whole zoo to load."""

Request = tuple[str, Body]


def run(options: Options) -> Report:
    """All clients send what they have again and again, while the engine is killed at random moments."""
    kills = 10 if options.is_full else 3
    requests = crowd()
    with Service(options.serve) as service:
        wanted = asyncio.run(once(service.port, requests))
        outcome = asyncio.run(Trial(service, requests, wanted).run(kills))
    claims = [
        Claim(
            f"errors that {outcome.num_answers} requests of {NUM_CLIENTS} clients met",
            "",
            [outcome.num_errors],
        ),
        Claim("answers that differ from the undisturbed ones", "", [len(outcome.differing)]),
        Claim("from a kill to ready again", "s", outcome.seconds, target=MOST_SECONDS),
    ]
    details = {"kills": kills, "answers": outcome.num_answers, "differing": outcome.differing[:20]}
    return Report("recovery", claims, details)


def crowd() -> list[Request]:
    """One request for each client: texts greedy, sampled by seed and searched, streamed and plain, and short tasks."""
    spoken, made = sentences(), list[Request]()
    for number in range(NUM_CLIENTS):
        prompt, text = [400 + number] * 8, spoken[number % len(spoken)]
        stream = {"stream": True} if number % 2 else {}
        match number % 8:
            case 0 | 1:
                made.append(
                    ("/v1/completions", {"model": "writer", "prompt": prompt, "max_tokens": 96} | stream)
                )
                made[-1][1].update(temperature=0, ignore_eos=True)
            case 2 | 3:
                made.append(
                    ("/v1/completions", {"model": "writer", "prompt": prompt, "max_tokens": 96} | stream)
                )
                made[-1][1].update(temperature=0.8, seed=number, ignore_eos=True)
            case 4 | 5:
                made.append(("/v1/translate", {"text": text, "target": "de"} | stream))
            case 6:
                made.append(("/v1/translate", {"text": text, "target": "fr", "num_beams": 4}))
            case _:
                made.append(("/v1/classify", {"model": "intent", "text": text, "top_k": 1}))
                if number % 16 == 7:
                    made[-1] = ("/v1/qa", {"question": "Who is it?", "context": text})
    return made


async def once(port: int, requests: Sequence[Request]) -> list[str]:
    """Everybody's answer."""
    return list(await asyncio.gather(*(_ask(port, *request) for request in requests)))


class Trial:
    """One run under fire, and what came of it."""

    def __init__(self, service: Service, requests: Sequence[Request], wanted: Sequence[str]) -> None:
        self.num_answers = 0
        self.num_errors = 0
        self.differing: list[dict[str, str]] = []
        self.seconds: list[float] = []
        self._service, self._requests, self._wanted = service, requests, wanted
        self._is_over = False

    async def run(self, kills: int) -> "Trial":
        """Returns itself."""
        clients = [asyncio.create_task(self._client(number)) for number in range(len(self._requests))]
        moments = random.Random(0)
        for _ in range(kills):
            await asyncio.sleep(moments.uniform(0.2, 2.0))
            start = time.perf_counter()
            self._service.kill_engine()
            await asyncio.to_thread(self._service.wait_ready)
            self.seconds.append(time.perf_counter() - start)
        self._is_over = True
        await asyncio.gather(*clients)
        return self

    async def _client(self, number: int) -> None:
        while not self._is_over:
            try:
                answer = await _ask(self._service.port, *self._requests[number])
            except (RuntimeError, OSError, asyncio.IncompleteReadError):
                self.num_errors += 1
                continue
            self.num_answers += 1
            if answer != self._wanted[number]:
                path, body = self._requests[number]
                self.differing.append(
                    {"path": path, "request": str(body), "wanted": self._wanted[number], "got": answer}
                )


async def _ask(port: int, path: str, body: Body) -> str:
    """The text of the answer, streamed or not."""
    async with Connection(port) as connection:
        reply = await connection.post(path, body)
    if not body.get("stream"):
        return _said(reply.json())
    return "".join(_said(event) for event in reply.events())


def _said(answer: Body) -> str:
    if "error" in answer:
        raise RuntimeError(str(answer["error"]))
    for key in ("choices", "translations"):
        if key in answer:
            return "".join(str(one["text"]) for one in answer[key])
    if "results" in answer:
        return str(answer["results"][0][0]["label"])
    return str(answer["answers"][0][0]["answer"])
