"""The errors that Quartet raises on purpose: one short tree, no HTTP.

Every error that a client can meet is one of these classes; `app.api.errors` is the single place that turns them into
statuses and bodies. Anything else that escapes is our bug and becomes an internal error there.
"""


class QuartetError(Exception):
    """The root. `status` is the HTTP status, `type` and `code` are what the body says.

    `param` names the request field at fault, where there is one; `retry_after` is in seconds.
    """

    status = 500
    type = "internal_error"
    code: str | None = None
    retryable: bool | None = None
    """False tells well-behaved clients not to try again (`x-should-retry: false`)."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class RequestError(QuartetError):
    """The client's mistake: sending the same request again gives the same answer."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type, out of range, unknown or too long."""

    code = "invalid_value"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)


class UnsupportedTask(RequestError):
    """The named model cannot do this task, or nobody serves it."""

    code = "unsupported_task"


class AuthenticationError(RequestError):
    """No key was given, or one that is not known."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(RequestError):
    """The key is known and may not do this."""

    status = 403
    type = "permission_error"
    code = "missing_scope"


class ModelNotFound(RequestError):
    """No served model has this name; the message lists those that are served."""

    status = 404
    type = "not_found_error"
    code = "model_not_found"


class RouteNotFound(RequestError):
    """No route has this path."""

    status = 404
    type = "not_found_error"
    code = "route_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class BodyTimeout(RequestError):
    """The request's body came slower than the limit."""

    status = 408
    code = "body_timeout"


class HeadTimeout(RequestError):
    """The request's head came slower than the limit."""

    status = 408
    code = "head_timeout"


class HeadTooLarge(RequestError):
    """The request's head is over the limit."""

    status = 431
    code = "head_too_large"


class PayloadTooLarge(RequestError):
    """The request's body is over the limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(RequestError):
    """The request's body is not JSON."""

    status = 415
    code = "unsupported_media_type"


class ClientClosed(QuartetError):
    """The client left before its answer was ready; logged and counted, never sent."""

    status = 499
    type = "aborted"
    code = "client_closed_request"


class Overloaded(QuartetError):
    """The queue is full; `retry_after` comes from the measured throughput."""

    status = 429
    type = "overloaded_error"
    code = "queue_full"


class RateLimited(Overloaded):
    """This key has asked for all that it may in a minute; `retry_after` says when there is more."""

    code = "rate_limited"


class Unavailable(QuartetError):
    """Loading, draining, or the engine is not back yet."""

    status = 503
    type = "unavailable_error"
    code = "unavailable"


class DeadlineExceeded(QuartetError):
    """The request's own deadline passed; its work was aborted."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    retryable = False


class InternalError(QuartetError):
    """Our bug; the message is for people, and carries no trace."""

    code = "internal"


class EngineFailed(InternalError):
    """The engine could not compute this one request; the loop goes on."""

    code = "engine_failed"


class EngineFault(InternalError):
    """This request alone ends the engine process; the same one is refused for a while."""

    type = "engine_fault"
    code = "engine_fault"
    retryable = False


class ConfigError(Exception):
    """The settings cannot be used: one line that says what to do. Exit code 2."""
