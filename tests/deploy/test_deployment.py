"""The chart, the compose file and the alert rules, judged by the tools that read them, and by what the engine takes."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from engine.cli import app
from engine.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "counterpoint"
COMPOSE = ROOT / ".infra" / "compose" / "compose" / "config" / "compose_spec.json"
PYTHON = ROOT / ".infra" / "bin" / "python"
VARIABLES = {f"COUNTERPOINT_{name.upper()}" for name in Settings.__struct_fields__}
STORE = {"store": {"url": "redis://store:6379/0"}}


def render(values: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    if not PYTHON.exists():
        pytest.skip("`make infra` installs the Helm of this test")
    script = Path(__file__).with_name("render_chart.py")
    command = [PYTHON, script, CHART, json.dumps(values)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def pods_of(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods of the chart by their role."""
    sets = [one["spec"]["template"] for one in objects if one["kind"] == "StatefulSet"]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"] for one in sets}


def test_the_chart_renders_what_kubernetes_takes_and_what_the_engine_takes() -> None:
    done = render(STORE | {"learner": {"settings": {"STORE_TIMEOUT": "1"}}})
    assert done.returncode == 0, done.stderr
    objects = json.loads(done.stdout)
    pods = pods_of(objects)
    assert pods.keys() == {"server", "learner", "log"}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001  # the user of the Dockerfile
        for container in pod["containers"]:
            assert container["args"][0] in app
            assert {one["name"] for one in container["env"]} <= VARIABLES
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "/var/lib/counterpoint" in {one["mountPath"] for one in container["volumeMounts"]}
    verbs = [container["args"][0] for pod in pods.values() for container in pod["containers"]]
    assert sorted(verbs) == ["collect", "dashboard", "learn", "serve", "supervise"]
    [learner] = pods["learner"]["containers"]
    assert {"name": "COUNTERPOINT_STORE_TIMEOUT", "value": "1"} in learner["env"]
    services = {one["metadata"]["name"] for one in objects if one["kind"] == "Service"}
    [server] = pods["server"]["containers"]
    [dashboard] = [one["value"] for one in server["env"] if one["name"] == "COUNTERPOINT_DASHBOARD"]
    assert dashboard.removeprefix("http://").removesuffix(":8080") in services


def test_every_value_of_the_chart_renders_what_kubernetes_takes() -> None:
    placed = {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}
    done = render(
        {
            "store": {"existingSecret": "stores"},
            "experiments": {"configMap": {"name": "experiments"}},
            "image": {"pullSecrets": ["registry"], "tag": "7"},
            "server": placed | {"storageClass": "fast", "replicas": 4, "workers": 2},
            "learner": placed,
            "log": placed | {"envFrom": [{"secretRef": {"name": "s3"}}], "settings": {"LOG_COPY": "s3://b/p"}},
            "serviceAccount": {"name": "counterpoint", "annotations": {"a": "b"}},
            "ingress": {"enabled": True, "className": "nginx", "host": "shop.example.org", "tlsSecret": "tls"},
            "networkPolicy": {"enabled": True, "callers": [{"app": "shop"}]},
        }
    )
    assert done.returncode == 0, done.stderr
    objects = json.loads(done.stdout)
    assert {"Ingress", "NetworkPolicy", "ServiceAccount", "PodDisruptionBudget"} <= {one["kind"] for one in objects}
    keys = {}
    for pod in pods_of(objects).values():
        for container in pod["containers"]:
            [address] = [one for one in container["env"] if one["name"] == "COUNTERPOINT_REDIS"]
            keys[container["name"]] = address["valueFrom"]["secretKeyRef"]["key"]
    assert keys == {
        "server": "server", "learner": "learner", "collector": "collector",
        "dashboard": "dashboard", "supervisor": "dashboard",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "name the store"),
        ({"store": {"url": "http://store"}}, "/store/url"),
        (STORE | {"servers": 3}, "servers"),
        (STORE | {"settings": {"REDIS": "redis://other"}}, "invalid propertyName 'REDIS'"),
        (STORE | {"ingress": {"enabled": True}}, "name the host"),
    ],
)
def test_the_chart_refuses_values_that_it_does_not_take(values: dict[str, Any], reason: str) -> None:
    done = render(values)
    assert done.returncode != 0
    assert reason in done.stderr


def test_the_compose_file_is_valid_and_its_roles_are_the_engines() -> None:
    compose = msgspec.yaml.decode((ROOT / "compose.yaml").read_bytes())
    if not COMPOSE.exists():
        pytest.skip("`make infra` downloads the specification of this test")
    schema = json.loads(COMPOSE.read_text())
    jsonschema.validate(compose, schema, jsonschema.Draft7Validator)
    roles = {name: one for name, one in compose["services"].items() if name != "store"}
    assert roles.keys() == {"server", "learner", "collector", "dashboard", "supervisor"}
    for role in roles.values():
        assert role["command"][0] in app
        assert role["environment"].keys() <= VARIABLES
        assert {name.partition(":")[0] for name in role["volumes"]} <= {*compose["volumes"], "./experiments"}


def test_prometheus_takes_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("Debian's package prometheus has the promtool of this test")
    command = [promtool, "check", "rules", "--lint-fatal", str(ROOT / "deploy" / "alerts.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
