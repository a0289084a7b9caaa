"""Assignment: which variant of an experiment a unit has, with a reason at every exit.

The exits are asked in a fixed order: status and dates, forced, degraded, unit, sticky, holdout, layer and filters,
prerequisites, audience, coverage. A unit that no exit catches gets the variant in whose range its hash lies.
"""

from collections.abc import Collection, Mapping
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

It has one: `assigned` by the hash; `forced` by its id; `sticky`, bound by an earlier decision.
It has none: `holdout` it is held out; `layer` it is in another part of the layer, or outside a filter; `prerequisite`
it is not in the variant of another experiment that this one needs; `audience` the condition does not match; `coverage`
it is not let in (yet); `version` it saw the experiment in a blocked bucket version; `unit` the request names no such
unit; `paused`, `not_started`, `ended` by the experiment's status and dates; `channel` the experiment runs on others;
`degraded` the store is away, so an earlier variant cannot be looked up (a flag is evaluated all the same).
"""


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """The variant's index and the id it was hashed over; index -1 and no id where the reason gives no variant."""

    reason: AssignmentReason
    index: int = -1
    unit: str = ""


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The customer, device and store of a decision, as assignment reads them.

    `units` are the ids to hash over, by kind; `names` all ids by which a variant can be forced; `sticky` the entries of
    `engine.decision.sticky` from earlier decisions; `degraded` says that the profile could not be read.
    """

    units: Mapping[Unit, str | None]
    names: Collection[str | None]
    attributes: Mapping[str, object]
    sticky: Mapping[str, str] = {}
    degraded: bool = False


def assign(plan: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """Which variant of `experiment` the subject has at `now` (s since 1970), and why."""
    spec = experiment.spec
    if spec.status == "paused" or experiment.key in plan.paused:
        return Assignment("paused")
    if spec.status == "stopped" or now >= experiment.end:
        return Assignment("ended")
    if now < experiment.start:
        return Assignment("not_started")
    if experiment.forced:
        for name in subject.names:
            if name is not None and name in experiment.forced:
                return Assignment("forced", experiment.forced[name], name)
    if subject.degraded and spec.kind == "experiment":
        return Assignment("degraded")
    unit = subject.units[spec.unit]
    if not unit and spec.fallback_unit:
        unit = subject.units[spec.fallback_unit]
    if not unit:
        return Assignment("unit")
    # Before holdout, audience and coverage: a unit keeps its variant whatever changes in those.
    bound = sticky.sticky_variant(spec, subject.units, subject.sticky) if spec.sticky else None
    if bound is not None:
        return Assignment("version") if bound == "blocked" else Assignment("sticky", bound, unit)
    return _assign_by_hash(plan, experiment, subject, unit, now)


def _assign_by_hash(plan: Plan, experiment: Experiment, subject: Subject, unit: str, now: float) -> Assignment:
    """The assignment of a unit that is neither forced nor bound."""
    for holdout in experiment.holdouts:
        held_out = subject.units[holdout.unit]
        if held_out and holdout.hash_unit(held_out) < holdout.share:
            return Assignment("holdout")
    if experiment.layer and not experiment.low <= experiment.layer.hash_unit(unit) < experiment.high:
        return Assignment("layer")
    for rule in experiment.filters:
        filtered = unit if rule.unit is None else subject.units[rule.unit]
        if not filtered or choose_variant(rule.hash_unit(filtered), rule.ranges) < 0:
            return Assignment("layer")
    for key, variants in experiment.prerequisites:
        other = plan.experiments.get(key)
        found = assign(plan, other, subject, now) if other else Assignment("ended")
        if other is None or found.index < 0 or other.spec.variants[found.index].key not in variants:
            return Assignment("prerequisite")
    if experiment.matches and not experiment.matches(subject.attributes):
        return Assignment("audience")
    place = experiment.hash_unit(unit)
    for index, (low, high) in enumerate(experiment.ranges(now)):
        if low <= place < high:
            return Assignment("assigned", index, unit)
    return Assignment("coverage")
