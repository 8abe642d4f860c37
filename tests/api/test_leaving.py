"""Clients that leave at any moment: nothing of theirs is left behind, and each is counted once."""

import asyncio
import json
import random

from app.metrics import OUTCOMES
from tests.api.conftest import Service

NUM_CLIENTS = 200
REQUESTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/generate", {"prompt": "Hi", "max_tokens": 40, "stream": True}),
    ("/v1/generate", {"prompt": ["Hi", "you"], "max_tokens": 40}),
    ("/v1/generate", {"prompt": ["Hi", "you"], "max_tokens": 40, "stop": "Stop"}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 20, "n": 2, "stream": True}),
    ("/v1/translate", {"text": "One. Two. Three.", "target": "de", "max_tokens": 20, "stream": True}),
    ("/v1/translate", {"text": ["One. Two.", "Three."], "target": "de", "num_beams": 2}),
    ("/v1/classify", {"text": ["a", "b", "c"]}),
    ("/v1/qa", {"question": "Who?", "context": "They."}),
)


def test_two_hundred_who_leave_at_any_moment_leave_nothing_behind(service: Service) -> None:
    service.engine.delay = 0.002
    moments = random.Random(7)

    async def come_and_go(number: int) -> None:
        path, body = REQUESTS[number % len(REQUESTS)]
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        await asyncio.sleep(moments.uniform(0.0, 0.3))
        writer.close()

    async def crowd() -> None:
        await asyncio.gather(*map(come_and_go, range(NUM_CLIENTS)))

    service.on_loop(service.engine.gate.clear)  # those who are whole at once in the end wait, too
    service.engine.free_tokens = 30
    asyncio.run(crowd())
    service.wait_until(
        lambda: not service._server.server_state.connections and not service.registry.in_flight.handlers
    )
    assert service.engine.num_running == 0
    counts = dict.fromkeys(OUTCOMES, 0.0)
    for metric in service.registry.metrics.requests.collect():
        for sample in metric.samples:
            counts[sample.labels["outcome"]] += sample.value
    assert (sum(counts.values()), counts["ok"] + counts["aborted"]) == (NUM_CLIENTS, NUM_CLIENTS)
    assert counts["aborted"] > NUM_CLIENTS / 4
    assert service.post("/v1/generate", {"prompt": "Hi", "max_tokens": 1}).status_code == 200
