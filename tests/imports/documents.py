"""Documents of other flag systems, and what an import makes of them."""

from collections.abc import Mapping
from typing import Any

from engine.catalog.check.load import build_specs
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.flags import value_of
from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideRequest, decide
from engine.imports.import_flags import import_flags, to_yaml
from engine.imports.model import ImportResult

NOW = 1_790_000_000.0
Json = dict[str, Any]
Part = Mapping[str, Any]
NOTHING: Part = {}


def imported(system: str, document: Json) -> tuple[ImportResult, Plan]:
    """The import of a document, and the plan of its files, in which `check` finds nothing."""
    result = import_flags(system, document)
    return result, compile_plan(build_specs("to", {name: to_yaml(one) for name, one in result.files.items()}))


def value(result: ImportResult, plan: Plan, flag: str, customer: str | None, context: Json | None = None) -> Any:
    """What one flag gives a customer; None where it leaves the code's default."""
    key = result.flags[flag]
    assert key is not None, [str(note) for note in result.notes]
    profile = Profile(id=customer or "", unit=customer or "")
    request = DecideRequest(
        customer=CustomerIds(user_id=customer), channel="web", experiments=[key], context=context or {}
    )
    spec = plan.experiments[key].spec
    index = decide(plan, {}, profile, request, NOW).assigned[key].assignment.index
    return value_of(spec.variants[index], spec.type)


def eppo_without_shards() -> Json:
    shards = [{"salt": "s", "ranges": [{"start": 0, "end": 1}]}]
    allocation = {"key": "a", "splits": [{"variationKey": "on", "shards": shards}]}
    flag = {"enabled": True, "variations": {"on": {"key": "on", "value": "x"}}, "allocations": [allocation]}
    return {"flags": {"f": {**flag, "totalShards": 0}}}


def confidence(flag: Part = NOTHING, rule: Part = NOTHING, segment: Part = NOTHING) -> Json:
    assignment = {"variant": {"variant": "flags/f/variants/on"}, "bucketRanges": [{"upper": 10}]}
    made = {
        "name": "flags/f/rules/r",
        "segment": "segments/s",
        "enabled": True,
        "assignmentSpec": {"bucketCount": 10, "assignments": [assignment]},
    }
    variants = [{"name": "flags/f/variants/on", "value": {"a": 1}}]
    one = {"name": "flags/f", "state": "ACTIVE", "variants": variants, "rules": [{**made, **rule}]}
    return {"flags": [{**one, **flag}], "segments": [{"name": "segments/s", **segment}]}


def targets(criterion: Json) -> Json:
    return {"targeting": {"criteria": {"c": criterion}, "expression": {"ref": "c"}}}


def growthbook(*rules: Json, default: Any = "no") -> Json:
    return {"features": {"f": {"defaultValue": default, "rules": list(rules)}}}


def clause(op: str, value: Any) -> Json:
    rule = {"variation": 1, "clauses": [{"attribute": "a", "op": op, "values": [value]}]}
    flag = {"on": True, "variations": [False, True], "fallthrough": {"variation": 0}, "salt": "s", "rules": [rule]}
    return {"flags": {"f": flag}}


def constraint(operator: str, operand: str) -> Json:
    one = {"contextName": "a", "operator": operator, "value": operand}
    return {"features": [{"name": "f", "enabled": True, "strategies": [{"name": "default", "constraints": [one]}]}]}
