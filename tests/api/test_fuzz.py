"""Requests made up from the OpenAPI description, right and wrong ones: no server error, no answer off its shape."""

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from app.main import Limits, create_app
from app.metrics import Metrics
from app.registry import Registry
from tests.api.conftest import Service

EXAMPLES = 50
"""Right requests of each route, and as many wrong ones."""
LEAST_SHARE = 0.3
"""Of the right requests that must be answered; the description cannot tell what a model's vocabulary can spell."""
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 413]},
        "negative_data_rejection": {"expected-statuses": [400, 404, 405, 413, 415]},
    }
}
FILLED: dict[str, dict[str, Any]] = {
    "/v1/fill-mask": {"text": "a[MASK]b"},
    "/v1/translate": {"target": "de", "source": None},
    "/translate": {"target": "de", "source": "en"},
    "/pipeline/fill-mask": {"inputs": "a[MASK]b", "parameters": {"targets": ["a"]}},
    "/pipeline/translation": {"parameters": {"tgt_lang": "de"}},
    "/pipeline/text-generation": {"inputs": "Hi", "parameters": {"max_new_tokens": 3}},
}
"""What a right request needs by the model that is served, which the description does not know."""
FOUND_BY_NAME = {"model": "mood", "task": "text-classification"}
"""Of routes whose task, which decides on the fields, is in the path or behind the model's name."""


def operations() -> list[APIOperation[Any, Any, Any, Any]]:
    app = create_app(Registry("test", [], Metrics("test")), Limits(1, 1.0, 1.0))
    schema = schemathesis.openapi.from_dict(app.openapi(), config=schemathesis.Config.from_dict(CONFIG))
    return [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]


OPERATIONS = {operation.label: operation for operation in operations()}
WITH_BODY = [label for label, operation in OPERATIONS.items() if operation.method == "post"]
QUIET = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def ask(case: Case[Any], service: Service, statuses: Counter[int]) -> None:
    """Sends it, counts the status, and checks the answer against the description."""
    response = case.call(base_url=str(service.client.base_url))
    statuses[response.status_code] += 1
    case.validate_response(response)


def completed(case: Case[Any], service: Service) -> None:
    """Names a model that is served, or none, and leaves the time that it takes to the service."""
    if not isinstance(case.body, dict):
        return
    body: dict[str, Any] = case.body
    if "{model}/v1/" in case.operation.path:
        case.path_parameters["model"] = "assistant"
    elif "{model}" in case.operation.path or case.operation.path == "/":
        case.path_parameters.update({name: FOUND_BY_NAME[name] for name in case.path_parameters})
        body.clear()
        body["inputs"] = "a"
    body.pop("timeout", None)
    if body.get("model") not in service.registry.served:
        body.pop("model", None)
    body.update(FILLED.get(case.operation.path, {}))
    for name in ("prompt", "input", "tokens"):
        if name in body:
            body[name] = spellable(body[name])


def spellable(value: Any) -> Any:
    """The same with all token ids within the vocabulary, and no text empty."""
    if isinstance(value, list):
        return [spellable(one) for one in value]
    if isinstance(value, str):
        return value or "a"
    return int(value) % 100 if isinstance(value, int | float) else value


@pytest.mark.parametrize("label", WITH_BODY)
def test_right_requests_are_answered_as_described(shared: Service, label: str) -> None:
    statuses: Counter[int] = Counter()

    @QUIET
    @given(case=OPERATIONS[label].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case[Any]) -> None:
        completed(case, shared)
        ask(case, shared, statuses)

    check()
    assert statuses[200] >= LEAST_SHARE * statuses.total(), statuses


@pytest.mark.parametrize("label", WITH_BODY)
def test_wrong_requests_are_refused(shared: Service, label: str) -> None:
    statuses: Counter[int] = Counter()

    @QUIET
    @given(case=OPERATIONS[label].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Case[Any]) -> None:
        ask(case, shared, statuses)

    check()
    assert statuses.total() >= EXAMPLES / 2


@pytest.mark.parametrize("label", sorted(OPERATIONS.keys() - set(WITH_BODY)))
def test_what_has_no_body_is_answered_as_described(shared: Service, label: str) -> None:
    statuses: Counter[int] = Counter()

    @QUIET
    @given(case=OPERATIONS[label].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case[Any]) -> None:
        ask(case, shared, statuses)

    check()
    assert statuses.total() >= 1
