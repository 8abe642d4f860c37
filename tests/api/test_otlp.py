"""Where traces go: our setting, OpenTelemetry's own variables, and a server without their packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.config import load_settings
from app.errors import ConfigError

BASE, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def endpoint(folder: Path, environ: dict[str, str], flag: str | None = None) -> str | None:
    return load_settings({"model": [f"one={folder}"], "otlp_endpoint": flag}, environ).otlp_endpoint


@pytest.mark.parametrize(
    ("environ", "flag", "goes_to"),
    [
        ({}, None, None),
        ({}, "http://c:4318", "http://c:4318/v1/traces"),
        ({}, "https://c:4318/", "https://c:4318/v1/traces"),
        ({}, "http://c/mine", "http://c/mine"),
        ({"QUARTET_OTLP_ENDPOINT": "http://c"}, None, "http://c/v1/traces"),
        ({BASE: "http://s:4318"}, None, "http://s:4318/v1/traces"),
        ({BASE: "http://s/otlp/"}, None, "http://s/otlp/v1/traces"),
        ({BASE: "http://s", TRACES: "http://t/as/it/is"}, None, "http://t/as/it/is"),
        ({BASE: "http://s", "QUARTET_OTLP_ENDPOINT": "http://c"}, None, "http://c/v1/traces"),
        ({BASE: "http://s"}, "http://c", "http://c/v1/traces"),
        ({BASE: "http://s", "OTEL_SDK_DISABLED": "true"}, None, None),
        ({BASE: "http://s", "OTEL_TRACES_EXPORTER": "none"}, None, None),
        ({BASE: "http://s", "OTEL_TRACES_EXPORTER": "console, otlp"}, None, "http://s/v1/traces"),
        ({BASE: "http://s", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, None, "http://s/v1/traces"),
        (
            {
                BASE: "http://s",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            None,
            "http://s/v1/traces",
        ),
    ],
)
def test_traces_go_where_the_nearest_setting_says(
    tmp_path: Path, environ: dict[str, str], flag: str | None, goes_to: str | None
) -> None:
    assert endpoint(tmp_path, environ, flag) == goes_to


def test_the_file_wins_over_opentelemetrys_variables(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[server]\notlp_endpoint = "http://f"\n[models.one]\npath = "."\n')
    assert load_settings({"config": str(file)}, {BASE: "http://s"}).otlp_endpoint == "http://f/v1/traces"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {BASE: "http://s:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'",
        ),
        ({BASE: "s:4318"}, "otlp_endpoint"),
        ({"QUARTET_OTLP_ENDPOINT": "unix:///x"}, "otlp_endpoint"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        endpoint(tmp_path, environ)


SERVE = """
import sys, app.cli
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.exit(app.cli.main(sys.argv[1:]))
"""


def test_without_its_packages_a_start_that_asks_for_traces_names_the_extra() -> None:
    command = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--otlp-endpoint", "http://c:4318"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "the extra `otel`" in run.stderr


def test_a_propagator_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", "smoke-signals")
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--otlp-endpoint", "http://c:4318"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert run.stderr.count("\n") == 1
    assert "smoke-signals" in run.stderr


def test_a_server_without_traces_imports_nothing_of_opentelemetry() -> None:
    code = "import sys, app.cli, app.main; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
