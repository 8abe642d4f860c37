"""What the trace of a request says of it, under OpenTelemetry's names for HTTP and for generative models.

Nothing that the client wrote is in it but its path and its request id.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from app.api.call import Call
from app.api.reply import Reply
from app.metrics import NONE
from app.timeline import Timeline

if TYPE_CHECKING:
    from app.tracing import Trace, Tracing

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OPERATIONS = {"chat": "chat", "generate": "text_completion", "embed": "embeddings"}
"""Tasks that the conventions have a name for; the others go by ours."""

Value = str | int | float | bool | Sequence[str]


def begin_trace(tracing: "Tracing", scope: Scope, call: Call) -> "Trace":
    """Opens the request's span, and its timeline where the span is recorded."""
    method = _method(scope)
    path = scope["path"][:200]
    trace = tracing.begin(
        _name(method, None),
        scope["headers"],
        call.started,
        {"http.request.method": method, "url.path": path, "url.scheme": scope["scheme"]},
    )
    call.trace_id = trace.id
    if trace.is_recorded:
        call.timeline = Timeline()
    return trace


def end_trace(trace: "Trace", scope: Scope, call: Call, reply: Reply, status: int) -> None:
    """Closes it, with a span for each part of the engine's work. `status` is the one that the log shows."""
    timeline, end = call.timeline, call.started + call.elapsed()
    if timeline is None:
        return
    route = getattr(scope.get("route"), "path_format", None)
    for at in timeline.restarts:
        trace.add_event("engine.restarted", at)
    for phase in timeline.phases(end):
        trace.add_phase(phase, {"gen_ai.request.model": call.model})
    attributes = _of_http(scope, call, reply, route)
    if call.task != NONE:
        attributes |= _of_task(call, reply, timeline)
    error = None
    if status >= 400:
        failure = call.failure
        code = str(status) if failure is None else failure.code or failure.type
        attributes["error.type"] = code
        # A mistake of the client's is no error of this span, as HTTP's conventions have it.
        error = code if status >= 499 else None
    trace.end(_name(_method(scope), route), attributes, error, end)


def _name(method: str, route: str | None) -> str:
    verb = "HTTP" if method == "_OTHER" else method
    return verb if route is None else f"{verb} {route}"


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in _METHODS else "_OTHER"


def _of_http(scope: Scope, call: Call, reply: Reply, route: str | None) -> dict[str, Value]:
    server = scope.get("server") or (None, None)
    told = {
        "http.route": route,
        "http.response.status_code": reply.status or None,
        "network.protocol.version": scope["http_version"],
        "server.address": server[0],
        "server.port": server[1],
        "client.address": call.client,
        "quartet.key": call.key,
        "quartet.request_id": call.request_id,
    }
    return _without_none(told)


def _of_task(call: Call, reply: Reply, timeline: Timeline) -> dict[str, Value]:
    usage, params = call.usage, timeline.params
    told: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATIONS.get(call.task, call.task),
        "gen_ai.provider.name": "quartet",
        "quartet.task": call.task,
        "quartet.sequences": timeline.num_sequences,
        "quartet.preemptions": timeline.num_preemptions,
    }
    if call.model != NONE:
        told |= {"gen_ai.request.model": call.model, "gen_ai.response.model": call.model}
    if timeline.submitted is not None:
        told |= {
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        }
    if params is not None:
        told |= {
            "gen_ai.request.stream": reply.is_events,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k if params.top_k > 0 else None,
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.seed": params.seed,
            "gen_ai.response.finish_reasons": usage.finish_reasons or None,
        }
    return _without_none(told)


def _without_none(told: Mapping[str, Any]) -> dict[str, Value]:
    return {name: value for name, value in told.items() if value is not None}
