"""Lints and renders the chart by Helm, validates it by Kubernetes' schemas, and prints the objects as JSON.

It runs in the environment of `make infra`: `render_chart.py CHART VALUES_JSON`.
"""

import json
import sys

import kubernetes_validate
import yaml
from helm_python.chart import Chart, lint

KUBERNETES = "1.34.0"


def render(path: str, values: dict[str, object]) -> list[dict[str, object]]:
    report = lint(path, values, strict=True, kube_version="v1.34.0")
    findings = [one for one in report["messages"] if one["severity"] > 1]
    if findings or report["errors"]:
        raise SystemExit(f"helm lint: {findings or report['errors']}")
    with Chart.load(path) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="shop", namespace="growth")
    objects = [one for file, text in texts.items() if file.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    for one in objects:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    return objects


if __name__ == "__main__":
    sys.stdout.write(json.dumps(render(sys.argv[1], json.loads(sys.argv[2]))))
