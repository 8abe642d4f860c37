"""Where traces go, by a setting of ours or by OpenTelemetry's own variables. Only looks at what it is given."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from app.errors import ConfigError

_PREFIX = "OTEL_EXPORTER_OTLP_"
_PATH = "/v1/traces"


def _with_path(url: str) -> str:
    """A collector's address alone means the path that OTLP has there."""
    host = url.partition("://")[2].rstrip("/")
    return url if "/" in host else url.rstrip("/") + _PATH


OtlpEndpoint = Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$"), AfterValidator(_with_path)]


def standard_endpoint(environ: Mapping[str, str]) -> dict[str, str]:
    """The setting `otlp_endpoint` as OpenTelemetry's variables have it, where they do.

    Raises ConfigError where they ask for a protocol that is not ours.
    """
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").replace(",", " ").split() or ["otlp"]
    if is_disabled or "otlp" not in exporters:
        return {}
    base, url = environ.get(f"{_PREFIX}ENDPOINT", ""), environ.get(f"{_PREFIX}TRACES_ENDPOINT", "")
    if not base and not url:
        return {}
    for name in (f"{_PREFIX}TRACES_PROTOCOL", f"{_PREFIX}PROTOCOL"):
        protocol = environ.get(name, "")
        if protocol not in ("", "http/protobuf"):
            raise ConfigError(
                f"{name} is {protocol!r}, and traces leave as http/protobuf only (port 4318 of a collector);"
                " set it so, or OTEL_TRACES_EXPORTER=none"
            )
        if protocol:
            break
    return {"otlp_endpoint": url or base.rstrip("/") + _PATH}
