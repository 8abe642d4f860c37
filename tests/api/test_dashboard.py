"""The alert rules and the dashboard ask only for what the service exposes: names, labels and label values."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Service
from tests.api.test_operations import use_everything

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/quartet.json").read_text(encoding="utf-8"))

TARGET_LABELS = {"job", "instance", "namespace", "service"}
"""What Prometheus puts on every series of a target; the last two by the operator's ServiceMonitor."""
LEVELS = {"service": {"job", "namespace", "service"}}
"""Words in the names of recorded series that stand for several labels."""
OF_PROMETHEUS = {"up": TARGET_LABELS, "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"}}
FIXED_VALUES = ("outcome", "kind", "result", "le")
"""Labels whose values are all in the exposition."""
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool"}


@dataclass(frozen=True)
class Query:
    """A PromQL expression with its variables filled in, and the labels that its legend wants."""

    where: str
    text: str
    legend: frozenset[str] = frozenset()

    def grouped_by(self) -> set[str]:
        return {
            label
            for labels in re.findall(r"\bby\s*\(([^)]*)\)", self.text)
            for label in re.findall(r"\w+", labels)
        }

    def selectors(self) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
        """(metric, its matchers as label, operator and value) each."""
        text = re.sub(r"\bby\s*\([^)]*\)|\[[^\]]*\]", " ", self.text)
        for match in re.finditer(r"(?<![\w.])([a-zA-Z_:][\w:]*)\b(?!\s*\()(\{[^}]*\})?", _hide(text)):
            if match[1] not in KEYWORDS:
                matchers = text[match.end(1) : match.end()]
                yield match[1], re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers)


def _hide(text: str) -> str:
    """The text, as long as before, with blanks for what stands in quotes."""
    return re.sub(r'"[^"]*"', lambda match: " " * len(match[0]), text)


def dashboard_queries() -> Iterator[Query]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            legend = frozenset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            yield Query(panel["title"], fill_in(target["expr"]), legend)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None
            yield Query(f"${variable['name']}", fill_in(match[1]), frozenset({match[2]}))


def fill_in(text: str) -> str:
    variables = {variable["name"]: ".*" for variable in DASHBOARD["templating"]["list"]}
    variables |= {"__rate_interval": "5m", "__range": "1h"}
    return re.sub(r"\$(\w+)", lambda match: variables[match[1]], text)


def rule_queries() -> Iterator[Query]:
    for rule in RULES:
        wanted = re.findall(r"\$labels\.(\w+)", json.dumps(rule.get("annotations", {})))
        yield Query(rule.get("record") or rule["alert"], rule["expr"], frozenset(wanted))


def recorded() -> dict[str, set[str]]:
    """The series that the rules record, with their labels."""
    queries = {query.where: query for query in rule_queries()}
    return {
        rule["record"]: queries[rule["record"]].grouped_by() - {"le"} for rule in RULES if "record" in rule
    }


class Exposed:
    """The samples of a service in use: their labels, and the values those have."""

    def __init__(self, text: str) -> None:
        self.families: set[str] = set()
        self.labels: dict[str, set[str]] = {name: set(labels) for name, labels in OF_PROMETHEUS.items()}
        self.values: Mapping[tuple[str, str], set[str]] = defaultdict(set)
        for family in text_string_to_metric_families(text):
            self.families.add(family.name)
            for sample in family.samples:
                self.labels.setdefault(sample.name, set(TARGET_LABELS)).update(sample.labels)
                for label, value in sample.labels.items():
                    self.values[sample.name, label].add(value)
        self.labels |= recorded()


@pytest.fixture
def exposed(service: Service) -> Exposed:
    use_everything(service)
    return Exposed(service.client.get("/metrics").text)


def test_every_query_asks_for_what_is_there(exposed: Exposed) -> None:
    num_selectors = 0
    for query in (*rule_queries(), *dashboard_queries()):
        labels: set[str] = set()
        for name, matchers in query.selectors():
            num_selectors += 1
            assert name in exposed.labels, f"{query.where}: {name} is not exposed"
            labels |= exposed.labels[name]
            for label, operator, value in matchers:
                assert label in exposed.labels[name], f"{query.where}: {name} has no label {label}"
                if label in FIXED_VALUES:
                    values = set(value.split("|") if "~" in operator else [value])
                    unknown = values - exposed.values[name, label]
                    assert not unknown, f"{query.where}: {name} has no {label} {unknown}"
        missing = (query.grouped_by() | query.legend) - labels
        assert not missing, f"{query.where}: nothing there has {missing}"
        if query.grouped_by() and query.text.startswith(("sum", "histogram_quantile", "avg", "max", "count")):
            lost = query.legend - query.grouped_by()
            assert not lost, f"{query.where}: {lost} is summed away"
    assert num_selectors > 100


def test_the_dashboard_shows_every_metric(exposed: Exposed) -> None:
    shown = {name for query in dashboard_queries() for name, _ in query.selectors()}
    stems = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in shown}
    assert exposed.families <= stems


def test_names_of_recorded_series_tell_their_labels() -> None:
    for name, labels in recorded().items():
        match = re.fullmatch(r"([a-z_]+):quartet_[a-z_]+:[a-z_0-9]+", name)
        assert match is not None, f"{name} is not level:metric:operation"
        told = set().union(*(LEVELS.get(word, {word}) for word in match[1].split("_")))
        assert told == labels, f"{name} has {labels}"


def test_every_recorded_series_and_alert_has_a_test() -> None:
    tests = (DEPLOY / "prometheus/rules_test.yml").read_text(encoding="utf-8")
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    assert alerts == set(re.findall(r"alertname: (\w+)", tests))
    asked = {name for query in rule_queries() for name, _ in query.selectors()}
    for name in recorded():
        assert name in tests or name in asked, f"nobody asks for {name}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_reads_the_queries(tmp_path: Path) -> None:
    rules = [
        {"record": "dashboard:query", "expr": query.text, "labels": {"number": str(i)}}
        for i, query in enumerate(dashboard_queries())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    for path in (file, DEPLOY / "prometheus/rules.yml"):
        run = subprocess.run(
            ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
