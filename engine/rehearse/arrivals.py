"""The customers that an experiment would have admitted, by deciding the log's visits again."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Plan
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.ramp import final_coverage
from engine.decision.decision import decide
from engine.errors import BadInput
from engine.journal.traces import Trace
from engine.rehearse.dry_run import Visit, visits_of_log
from engine.rehearse.preview import NO_SNAPSHOTS, with_draft


def draft_plans(specs: Specs, key: str) -> dict[str, Plan]:
    """The plan with the draft `key` running: as written, for all customers, and in the whole of its layer.

    A ramp has reached its end in each: its dates say nothing of the days of the log, nor do the steps it would take.

    Raises:
        BadInput: if there is no such experiment.
    """
    if key not in specs.experiments:
        raise BadInput(f"{key!r} is not an experiment; name one of {', '.join(specs.experiments) or 'none'}")
    drafted = specs.experiments[key]
    spec = msgspec.structs.replace(drafted, ramp=[], coverage=final_coverage(drafted.ramp, drafted.coverage))
    specs = replace(specs, experiments={**specs.experiments, key: spec})
    found = {"as drafted": with_draft(specs, key)}
    changes: dict[str, dict[str, object]] = {
        "all customers": {"audience": {}, "filters": []},
        "whole layer": {"layer": None, "coverage": 1.0},
    }
    for name, change in changes.items():
        if any(getattr(spec, field) != value for field, value in change.items()):
            changed = msgspec.structs.replace(spec, **change)
            found[name] = with_draft(replace(specs, experiments={**specs.experiments, key: changed}), key)
    return {name: compile_plan(one) for name, one in found.items()}


def first_arrivals(plan: Plan, key: str, traces: Iterable[Trace]) -> dict[str, float]:
    """The time (s since 1970) at which each customer would first have had a variant.

    Args:
        plan: with the experiment running.
        key: the experiment.
        traces: of the log, in the order of their times.
    """
    logged: Iterable[Visit] = ((one.now, one.request, one.profile) for one in traces)
    found: dict[str, float] = {}
    for now, request, profile in visits_of_log(plan, key, logged):
        if profile.id in found:
            continue
        decided = decide(plan, NO_SNAPSHOTS, profile, request, now, decision_id=f"arrival of {profile.id}").assigned
        assigned = decided.get(key)
        if assigned is not None and assigned.assignment.index >= 0:
            found[profile.id] = now
    return found
