"""OpenAI's own client over a fake engine: which exception it makes of which refusal, and when it comes back."""

import time

import openai
import pytest

from app.errors import DeadlineExceeded, EngineFailed, Overloaded, QuartetError, Unavailable
from tests.api.conftest import Service
from tests.api.fake_engine import TEXT

HI: openai.types.chat.ChatCompletionUserMessageParam = {"role": "user", "content": "Hi"}


def client(service: Service, max_retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=max_retries
    )


def ask(service: Service, max_retries: int = 0) -> str | None:
    with client(service, max_retries) as official:
        answer = official.chat.completions.create(model="assistant", messages=[HI], max_tokens=7)
    return answer.choices[0].message.content


@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        (Overloaded("the queue is full", retry_after=7.0), openai.RateLimitError, 429),
        (EngineFailed("the step failed"), openai.InternalServerError, 500),
        (Unavailable("loading", retry_after=1.0), openai.InternalServerError, 503),
        (DeadlineExceeded("too late"), openai.InternalServerError, 504),
    ],
)
def test_refusals_become_the_client_s_exceptions(
    service: Service, failure: QuartetError, kind: type[openai.APIStatusError], status: int
) -> None:
    service.engine.failure = failure
    with pytest.raises(kind) as refused:
        ask(service)
    assert (refused.value.status_code, refused.value.code) == (status, failure.code)
    assert refused.value.request_id


def test_the_client_comes_back_when_it_was_told_to(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.engine.failure = Overloaded("the queue is full", retry_after=7.0)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        service.engine.failure = None

    monkeypatch.setattr(time, "sleep", sleep)
    assert ask(service, max_retries=2) == TEXT[:5]
    assert waits == [7.0]


def test_the_client_does_not_try_again_what_was_too_late(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.engine.failure = DeadlineExceeded("too late")
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(openai.InternalServerError):
        ask(service, max_retries=2)
    assert waits == []


def test_a_failure_in_a_stream_is_an_exception_in_its_midst(service: Service) -> None:
    service.engine.failure, service.engine.fail_after = EngineFailed("the step failed"), 3
    with client(service) as official:
        stream = official.chat.completions.create(model="assistant", messages=[HI], max_tokens=9, stream=True)
        with pytest.raises(openai.APIError, match="the step failed"):
            list(stream)
