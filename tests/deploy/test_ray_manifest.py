"""What can be said of the RayService without a cluster: it fits Ray's schema, our options and our settings."""

import ast
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import load_settings

ROOT = Path(__file__).resolve().parents[2]
IMPORT_PATH = "deploy.ray.serving:application"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    text = (ROOT / "deploy/ray/rayservice.yaml").read_text(encoding="utf-8")
    (document,) = yaml.safe_load_all(text)
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayService")
    spec: dict[str, Any] = document["spec"]
    return spec


@pytest.fixture(scope="module")
def config(service: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(service["serveConfigV2"])
    return loaded


def pods(service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = service["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_what_it_imports_is_there(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    assert application["import_path"] == IMPORT_PATH
    module, name = IMPORT_PATH.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_its_arguments_are_options(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    tree = ast.parse((ROOT / "deploy/ray/serving.py").read_text(encoding="utf-8"))
    (options,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options"]
    fields = {
        node.target.id
        for node in options.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert set(application["args"]) <= fields


def test_its_variables_are_settings(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    settings = load_settings({}, application["runtime_env"]["env_vars"])
    assert settings.threads == application["args"]["num_cpus"]


def test_a_replica_fits_a_worker(service: dict[str, Any], config: dict[str, Any]) -> None:
    args = config["applications"][0]["args"]
    (group,) = service["rayClusterConfig"]["workerGroupSpecs"]
    _, worker = pods(service)
    assert args["num_cpus"] < float(worker["containers"][0]["resources"]["requests"]["cpu"])
    assert (args["min_replicas"], args["max_replicas"]) == (group["minReplicas"], group["maxReplicas"])


def test_pods_have_few_rights_and_no_variables_that_look_like_settings(
    service: dict[str, Any], config: dict[str, Any]
) -> None:
    for pod in pods(service):
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {"name": "serve", "containerPort": config["http_options"]["port"]} in container["ports"]


def test_workers_stop_after_what_is_in_flight(service: dict[str, Any]) -> None:
    _, worker = pods(service)
    assert worker["terminationGracePeriodSeconds"] > load_settings({}, {}).drain_timeout + 10.0


def test_versions_are_those_that_were_tested(service: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={service['rayClusterConfig']['rayVersion']}" in pins


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_takes_it(config: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        from ray.serve.schema import ServeDeploySchema

        from deploy.ray.serving import Options
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == IMPORT_PATH
    Options.model_validate(application.args)
