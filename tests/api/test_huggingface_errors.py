"""Which exceptions Hugging Face's own clients raise for what the service refuses or fails at."""

import asyncio
from collections.abc import Iterator

import huggingface_hub.constants
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    BadRequestError,
    GenerationError,
    HfHubHTTPError,
    IncompleteGenerationError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from app.errors import DeadlineExceeded, EngineFailed, Overloaded, Unavailable
from tests.api.conftest import Service

FAILURES: list[tuple[Exception, type[TextGenerationError]]] = [
    (Overloaded("full", retry_after=1), OverloadedError),
    (Unavailable("restarting", retry_after=1), OverloadedError),
    (EngineFailed("broken"), GenerationError),
    (DeadlineExceeded("late"), IncompleteGenerationError),
]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks nobody but our service here; offline it does not even that."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def failing(service: Service) -> Iterator[Service]:
    """Its engine fails where the test says."""
    yield service
    service.on_loop(lambda: setattr(service.engine, "failure", None))


def break_down(service: Service, failure: Exception, after: int = 0) -> None:
    def change() -> None:
        service.engine.failure, service.engine.fail_after = failure, after

    service.on_loop(change)


def url(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


@pytest.mark.parametrize(("failure", "raised"), FAILURES)
def test_each_failure_has_its_class(
    failing: Service, failure: Exception, raised: type[TextGenerationError]
) -> None:
    break_down(failing, failure)
    with pytest.raises(raised, match=str(failure)):
        InferenceClient(url(failing)).text_generation("Hi", max_new_tokens=4)
    with pytest.raises(raised, match=str(failure)):
        asyncio.run(generate(url(failing)))
    with pytest.raises(HfHubHTTPError):
        InferenceClient(f"{url(failing)}/models/mood").text_classification("Hi")


def test_a_stream_that_is_cut_off_raises(failing: Service) -> None:
    break_down(failing, Unavailable("the service shut down"), after=2)
    client = InferenceClient(url(failing))
    stream = iter(client.text_generation("Hi", max_new_tokens=6, stream=True))
    assert [next(stream), next(stream)] == ["G", "r"]
    with pytest.raises(IncompleteGenerationError, match="shut down"):
        next(stream)
    with pytest.raises(IncompleteGenerationError, match="shut down"):
        asyncio.run(read_all(url(failing)))


async def read_all(address: str) -> list[str]:
    async with AsyncInferenceClient(address) as client:
        stream = await client.text_generation("Hi", max_new_tokens=6, stream=True)
        return [text async for text in stream]


async def generate(address: str) -> str:
    async with AsyncInferenceClient(address) as client:
        text: str = await client.text_generation("Hi", max_new_tokens=4)
        return text


def test_what_cannot_be_kept_is_a_validation_error(shared: Service) -> None:
    client = InferenceClient(url(shared))
    with pytest.raises(ValidationError, match="typical_p"):
        client.text_generation("Hi", typical_p=0.5)
    with pytest.raises(ValidationError, match="max_new_tokens"):
        client.text_generation("Hi", max_new_tokens=10**6)
    with pytest.raises(BadRequestError, match="top_k"):
        InferenceClient(f"{url(shared)}/models/mood").text_classification("Hi", top_k=0)
