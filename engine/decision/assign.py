"""holdout -> layer -> prerequisite -> audience -> coverage -> variant, with a reason at every exit."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.catalog.plan.plan import Experiment, Plan
from engine.catalog.spec.experiment import Unit
from engine.decision import sticky
from engine.hashing import choose_variant

AssignmentReason = Literal[
    "assigned",
    "forced",
    "sticky",
    "holdout",
    "layer",
    "prerequisite",
    "audience",
    "coverage",
    "version",
    "unit",
    "paused",
    "not_started",
    "ended",
    "degraded",
    "channel",
]
"""Why a unit has its variant, or has none.

`assigned` by the hash; `forced` by name; `sticky` kept from before. `holdout` held out; `layer` another part of the
layer, or outside a filter; `prerequisite` not in the variant it needs; `audience` does not match; `coverage` not let
in (yet); `version` was in a bucket version that is blocked; `unit` the request names no such unit; `paused`,
`not_started`, `ended` by the experiment's status and dates; `degraded` the store is away, so nobody knows what the
customer had (a flag is told all the same).
"""


class Assignment(msgspec.Struct, frozen=True):
    """The variant's index and the unit it hangs on, or no variant, and the reason."""

    reason: AssignmentReason
    index: int = -1
    unit: str = ""


class Subject(msgspec.Struct, frozen=True):
    """Whom a decision is for, as assignment sees them.

    `units` are the ids to hash over, per kind; `names` all ids a tester may be forced by; `sticky` what earlier
    decisions bound, as `decide.sticky` names it.
    """

    units: Mapping[Unit, str | None]
    names: frozenset[str]
    attributes: Mapping[str, object]
    sticky: Mapping[str, str] = {}
    degraded: bool = False


def assign(plan: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """Which variant of `experiment` the subject has at `now` (seconds since 1970), and why."""
    spec = experiment.spec
    if spec.status == "paused" or experiment.key in plan.paused:
        return Assignment("paused")
    if spec.status == "stopped" or now >= experiment.end:
        return Assignment("ended")
    if now < experiment.start:
        return Assignment("not_started")
    if experiment.forced:
        for name in subject.names:
            if name in experiment.forced:
                return Assignment("forced", experiment.forced[name], name)
    if subject.degraded and spec.kind == "experiment":
        return Assignment("degraded")
    unit = subject.units[spec.unit]
    if not unit and spec.fallback_unit:
        unit = subject.units[spec.fallback_unit]
    if not unit:
        return Assignment("unit")
    kept = sticky.sticky_variant(spec, subject.units, subject.sticky) if spec.sticky else None
    if kept is not None:
        return Assignment("version") if kept == "blocked" else Assignment("sticky", kept, unit)
    for holdout in experiment.holdouts:
        held = subject.units[holdout.unit]
        if held and holdout.hash_unit(held) < holdout.share:
            return Assignment("holdout")
    if experiment.layer and not experiment.low <= experiment.layer.hash_unit(unit) < experiment.high:
        return Assignment("layer")
    for each in experiment.filters:
        filtered = unit if each.unit is None else subject.units[each.unit]
        if not filtered or choose_variant(each.hash_unit(filtered), each.ranges) < 0:
            return Assignment("layer")
    for key, variants in experiment.prerequisites:
        other = plan.experiments.get(key)
        got = assign(plan, other, subject, now) if other else Assignment("ended")
        if other is None or got.index < 0 or other.spec.variants[got.index].key not in variants:
            return Assignment("prerequisite")
    if experiment.matches and not experiment.matches(subject.attributes):
        return Assignment("audience")
    place = experiment.hash_unit(unit)
    for index, (low, high) in enumerate(experiment.ranges(now)):
        if low <= place < high:
            return Assignment("assigned", index, unit)
    return Assignment("coverage")
