"""Whole models that come, go and are replaced at run time, over HTTP: nobody else notices, and what is told is true."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.guard import Guard
from app.api.shelf import Shelf
from app.engine.protocol import AdapterSpec, ModelSpec
from app.errors import EngineFailed, InvalidRequest, Unavailable
from app.in_flight import InFlight
from app.security import KeyRing
from app.sources import Source, Sources
from app.tasks.served import Served
from tests.api.conftest import Service
from tests.api.folders import CONFIGS, write_folder
from tests.api.test_admin import asked, post
from tests.api.test_errors import fault
from tests.api.test_keys import bearer, line

HELD = {"prompt": "Hi", "max_tokens": 5, "stream": True, "model": "writer"}


@pytest.fixture
def service(start: Callable[..., Service], served: list[Served], tmp_path: Path) -> Service:
    """The settings name the writer, which is the default of generate, the mood, and an adapter of the writer."""
    (tmp_path / "keys").write_text(line("root", "admin") + line("app", "infer"))
    for name in ("writer", "mood"):
        write_folder(tmp_path / name, CONFIGS[name])
    (tmp_path / "tales").mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / "tales" / "adapter_config.json").write_text(json.dumps(settings))
    named = {
        "writer": Source(tmp_path / "writer", weight=3.0),
        "mood": Source(tmp_path / "mood"),
        "tales": Source(tmp_path / "tales", "writer"),
    }
    return start(
        guard=Guard(KeyRing(tmp_path / "keys")),
        shelf=Shelf(tmp_path),
        sources=Sources(named),
        defaults={"generate": "writer"},
    )


def asked_for(service: Service) -> list[str]:
    """Which weights the requests that came were for."""
    return [request.model for request in service.engine.requests]


class Stream:
    """One that has had two tokens and waits for more."""

    def __init__(self, service: Service) -> None:
        self._service = service
        service.engine.free_tokens = 2
        service.on_loop(service.engine.gate.clear)
        self._response = service.client.stream("POST", "/v1/generate", json=HELD, headers=bearer("app"))

    def __enter__(self) -> "Stream":
        self._lines = self._response.__enter__().iter_lines()
        next(self._lines)
        return self

    def __exit__(self, *error: Any) -> None:
        self._response.__exit__(*error)

    def rest(self) -> str:
        self._service.on_loop(self._service.engine.gate.set)
        return list(self._lines)[-2]


def test_new_weights_answer_at_once_while_old_streams_end_on_theirs(service: Service, tmp_path: Path) -> None:
    with Stream(service) as stream:
        card = post(service, "writer/load").json()
        assert (card["id"], card["kind"]) == ("writer", "decoder")
        assert service.engine.loaded == [ModelSpec("writer:1", str(tmp_path / "writer"), 3.0)]
        assert service.engine.unloaded == [], "somebody is at work on it"
        answer = asked(service, "/v1/generate", prompt="Hi", max_tokens=2, model="writer")
        assert answer.json()["model"] == "writer"
        assert asked_for(service) == ["writer", "writer:1"]
        assert stream.rest() == "data: [DONE]"
    service.wait_until(lambda: service.engine.unloaded == ["writer"])
    assert post(service, "writer/load", {"weight": 5}).json()["id"] == "writer"
    assert service.engine.loaded[-1] == ModelSpec("writer:2", str(tmp_path / "writer"), 5.0)
    service.wait_until(lambda: service.engine.unloaded == ["writer", "writer:1"])


def test_a_handler_holds_weights_to_its_end_and_nobody_else_does() -> None:
    async def scene() -> None:
        in_flight, going = InFlight(), {name: asyncio.Event() for name in ("first", "second")}

        async def handle(name: str) -> None:
            with in_flight.admit(asyncio.current_task()):
                in_flight.hold("old")
                in_flight.hold(name)
                await going[name].wait()

        handlers = {name: asyncio.create_task(handle(name)) for name in going}
        in_flight.hold("new")  # by no handler
        await asyncio.sleep(0)
        await in_flight.until_left("new")
        leaving = asyncio.create_task(in_flight.until_left("old"))
        going["first"].set()
        await handlers["first"]
        await in_flight.until_left("first")
        assert not leaving.done()
        going["second"].set()
        await leaving
        assert handlers["second"].done()

    asyncio.run(asyncio.wait_for(scene(), 10.0))


def test_an_unloaded_model_is_unknown_and_its_tasks_go_to_the_next_one(
    service: Service, tmp_path: Path
) -> None:
    before = [one["id"] for one in service.registry.info()["models"]]
    replies: list[httpx.Response] = []
    with Stream(service) as stream:
        unloading = threading.Thread(target=lambda: replies.append(post(service, "writer/unload")))
        unloading.start()
        service.wait_until(lambda: "writer" not in service.registry.served)
        refused = asked(service, "/v1/generate", prompt="Hi", model="writer")
        assert (refused.status_code, fault(refused)["code"]) == (404, "model_not_found")
        assert service.engine.unloaded == []
        assert service.registry.info()["default_models"]["generate"] == "assistant"
        assert "writer" not in [
            one["id"] for one in service.client.get("/v1/models", headers=bearer("app")).json()["data"]
        ]
        assert service.client.get("/ready").status_code == 200
        assert stream.rest() == "data: [DONE]"
    unloading.join(timeout=10)
    assert replies[0].json() == {"id": "writer", "object": "model", "deleted": True}
    assert service.engine.unloaded == ["writer"]
    assert asked(service, "/v1/generate", prompt="Hi", max_tokens=1).json()["model"] == "assistant"
    assert 'kv_cache_blocks{model="writer"}' not in service.registry.exposition().decode()
    assert post(service, "writer/load").json()["id"] == "writer"
    assert sorted(one["id"] for one in service.registry.info()["models"]) == sorted(before)
    assert service.registry.info()["default_models"]["generate"] == "writer", "as configured"
    assert 'kv_cache_blocks{model="writer"}' in service.registry.exposition().decode()


def test_a_model_that_nobody_knew_is_served_with_what_it_can_do(service: Service, tmp_path: Path) -> None:
    write_folder(
        tmp_path / "team" / "a",
        CONFIGS["translator"] | {"task_specific_params": {"translation_cy_to_en": {}}},
    )
    card = post(service, "org/new.1/load", {"path": "team/a"}).json()
    assert (card["id"], card["tasks"][0], card["languages"]) == (
        "org/new.1",
        "translate",
        {"pairs": [["cy", "en"]]},
    )
    assert service.engine.loaded == [ModelSpec("org/new.1:1", str((tmp_path / "team" / "a").resolve()), 1.0)]
    answer = asked(service, "/v1/translate", text="Hi", source="cy", target="en", model="org/new.1")
    assert answer.json()["model"] == "org/new.1"
    assert "cy" in service.registry.detector._languages
    assert post(service, "org/new.1/unload").status_code == 200
    assert fault(post(service, "org/new.1/load"))["param"] == "name", "the settings do not know it"


def test_another_folder_takes_a_name_s_place_and_the_settings_give_it_back(
    service: Service, tmp_path: Path
) -> None:
    write_folder(tmp_path / "next", CONFIGS["writer"])
    new, old = str((tmp_path / "next").resolve()), str(tmp_path / "writer")
    assert post(service, "writer/load", {"path": "next"}).status_code == 200
    assert post(service, "writer/load").status_code == 200
    assert post(service, "writer/unload").status_code == 200
    assert post(service, "writer/load").status_code == 200
    service.wait_until(lambda: len(service.engine.loaded) == 1)
    assert service.engine.loaded == [ModelSpec("writer:3", old, 3.0)]
    assert service.engine.unloaded == ["writer", "writer:1", "writer:2"]
    assert new != old


def test_a_base_is_replaced_with_its_adapters_or_not_at_all(service: Service, tmp_path: Path) -> None:
    assert post(service, "tales/load").status_code == 200
    assert "base of tales" in fault(post(service, "writer/unload"))["message"]
    assert post(service, "writer/load").status_code == 200
    base, tales = str(tmp_path / "writer"), str(tmp_path / "tales")
    service.wait_until(lambda: service.engine.unloaded == ["tales:1", "writer"])
    assert service.engine.loaded == [
        ModelSpec("writer:2", base, 3.0),
        AdapterSpec("tales:3", "writer:2", tales),
    ]
    assert asked(service, "/v1/generate", prompt="Hi", max_tokens=1, model="tales").json()["model"] == "tales"
    assert asked_for(service) == ["tales:3"]
    (tmp_path / "tales" / "config.json").write_text("{")
    refused = post(service, "writer/load")
    assert (refused.status_code, fault(refused)["param"]) == (400, "path")
    service.wait_until(lambda: "writer:4" in service.engine.unloaded)
    assert [spec.name for spec in service.engine.loaded] == ["writer:2", "tales:3"]
    assert asked(service, "/v1/generate", prompt="Hi", max_tokens=1, model="tales").status_code == 200


@pytest.mark.parametrize(
    ("failure", "status"),
    [(InvalidRequest("no room", "path"), 400), (EngineFailed("broke"), 500), (Unavailable("again"), 503)],
)
def test_what_the_engine_does_not_take_leaves_the_old_one(
    service: Service, failure: Exception, status: int
) -> None:
    before = service.registry.info()
    service.engine.failure = failure
    assert post(service, "writer/load").status_code == status
    assert post(service, "other/load", {"path": "mood"}).status_code == status
    service.engine.failure = None
    assert service.registry.info() == before
    assert asked(service, "/v1/generate", prompt="Hi", max_tokens=1, model="writer").status_code == 200


def test_two_at_once_come_one_after_the_other_and_all_else_goes_on(service: Service) -> None:
    service.on_loop(service.engine.loading.clear)
    answers: list[httpx.Response] = []
    loads = [threading.Thread(target=lambda: answers.append(post(service, "writer/load"))) for _ in range(2)]
    for load in loads:
        load.start()
    service.wait_until(lambda: len(service.registry.in_flight.handlers) == 2)
    assert asked(service, "/v1/generate", prompt="Hi", max_tokens=1, model="writer").status_code == 200
    assert service.client.get("/ready").status_code == 200
    service.on_loop(service.engine.loading.set)
    for load in loads:
        load.join(timeout=10)
    assert [answer.status_code for answer in answers] == [200, 200]
    service.wait_until(lambda: service.engine.unloaded == ["writer", "writer:1"])


def test_the_last_model_stays(service: Service) -> None:
    *others, last = service.registry.served
    for name in others:
        assert post(service, f"{name}/unload").status_code == 200
    refused = post(service, f"{last}/unload")
    assert (refused.status_code, fault(refused)["param"]) == (400, "name")
    assert service.client.get("/ready").status_code == 200
