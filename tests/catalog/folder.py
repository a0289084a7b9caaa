"""Small shops for tests, built as a folder of files is."""

import json
from collections.abc import Mapping
from typing import Any

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.decision.assign import Subject

Json = dict[str, Any]
BASE: Mapping[str, Json] = {
    "channels.yaml": {"channels": [{"key": "web"}, {"key": "app"}]},
    "metrics.yaml": {"metrics": [{"key": "click", "event": "click"}]},
}
TWO = [{"key": "a"}, {"key": "b"}]


def experiment(key: str, **more: Any) -> Json:
    return {"key": key, "variants": TWO} | more


def specs(*experiments: Json, **files: Json) -> Specs:
    """The specs of a folder with these experiments; `layers={…}` is the file layers.yaml."""
    found = {**BASE, **{f"{name}.yaml": value for name, value in files.items()}}
    found |= {f"{spec['key']}.yaml": spec for spec in experiments}
    return build_specs("shop", {name: json.dumps(value).encode() for name, value in found.items()})


def plan(*experiments: Json, **files: Json) -> Plan:
    return compile_plan(specs(*experiments, **files))


def subject(unit: str | None, **attributes: Any) -> Subject:
    """A customer who is bucketed over `unit`; a device and a store may be among the attributes."""
    return Subject(
        units={"customer": unit, "device": attributes.get("device"), "store": attributes.get("store")},
        names=frozenset((unit,)) if unit else frozenset(),
        attributes=attributes,
    )
