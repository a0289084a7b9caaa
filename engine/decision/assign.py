"""Assignment: which variant of an experiment a unit has, with a reason at every exit.

The exits are asked in a fixed order: status and dates, forced, degraded, unit, sticky, layer and filters,
prerequisites, audience, coverage, holdout. A unit that no exit catches gets the variant in whose range its hash lies.

A flag with rules asks them in their order, after status and dates, forced, its own audience and prerequisites. The
first that gives a variant decides; a rule that gives none leaves the subject to the next. A flag with a default gives
that wherever it would give no variant, so that it always has a value; without rules and shares it gives it to everyone.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from engine.catalog.plan.plan import Experiment, Plan, Requirement, Rule
from engine.catalog.plan.switchback import Switchback
from engine.catalog.spec.units import Unit
from engine.decision import sticky
from engine.hashing import choose_variant

AssignmentReason = Literal[
    "assigned",
    "forced",
    "preview",
    "sticky",
    "rule",
    "default",
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
    "shipped",
    "degraded",
    "channel",
]
"""Why a unit has its variant, or has none.

It has one: `assigned` by the hash; `forced` by its id; `preview` by a signed token of the request; `sticky`, bound by
an earlier decision; `rule`, from a rule of a flag that gives its variant to all of its audience; `default`, as no rule
of the flag gave one; `shipped`, as the experiment is over and all of its audience has this one.
It has none: `holdout` it would have one, but is held out (of a frozen holdout it has what the kept plan gives, if
anything); `layer` it is in another part of the layer, or outside a
filter; `prerequisite` it is not in the variant of another experiment that this one needs; `audience` the condition does
not match; `coverage` it is not let in (yet); `version` it saw the experiment in a blocked bucket version; `unit` the
request names no such unit; `paused`, `not_started`, `ended` by the experiment's status and dates; `channel` the
experiment runs on others; `degraded` the store is away, so an earlier variant cannot be looked up (a flag is evaluated
all the same).
A flag with a default has that for a variant with each of these reasons.
"""


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """The variant's index and the id that was hashed; index -1 and no id if the reason gives no variant.

    `rule` is the experiment of the rule that decided, None where none did. `kept` is the experiment as an archived plan
    has it, where that decided: the index is of its variants.
    """

    reason: AssignmentReason
    index: int = -1
    unit: str = ""
    rule: Experiment | None = None
    kept: Experiment | None = None


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The customer, device, store and other units of a decision, as assignment reads them.

    `units` are the ids to hash over, by kind; `names` all ids by which a variant can be forced; `sticky` the entries of
    `engine.decision.sticky` from earlier decisions; `degraded` says that the profile could not be read; `preview` has
    the variants that are forced, by experiment; `kept` is the archived plan that decides for who is held out by it.
    """

    units: Mapping[Unit, str | None]
    names: Collection[str | None]
    attributes: Mapping[str, object]
    sticky: Mapping[str, str] = {}
    degraded: bool = False
    preview: Mapping[str, str] = {}
    kept: Plan | None = None


def assign(plan: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """The subject's variant of `experiment` at `now` (s since 1970), with the reason."""
    if subject.preview and experiment.key in subject.preview:
        variant = subject.preview[experiment.key]
        index = next(at for at, one in enumerate(experiment.spec.variants) if one.key == variant)
        return Assignment("preview", index, subject.units.get(experiment.spec.unit) or "")
    if subject.kept is not None:
        return _assign_kept(subject.kept, experiment, subject, now)
    found = _assign_without_default(plan, experiment, subject, now)
    if found.index < 0 <= experiment.default:
        return Assignment(found.reason, experiment.default)
    return found


def _assign_kept(kept: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """The assignment by the archived plan for a subject of a frozen holdout; its default for a flag that it lacks.

    The reason is `holdout` whatever it gives, so that no report of today's experiment counts the subject.
    """
    own = kept.experiments.get(experiment.key)
    if own is None:
        return Assignment("holdout", experiment.default)
    found = assign(kept, own, msgspec.structs.replace(subject, kept=None), now)
    return Assignment("holdout", found.index, found.unit, found.rule, own)


def _assign_without_default(plan: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """The subject's variant; no variant if only the flag's default applies."""
    spec = experiment.spec
    if spec.status == "paused" or experiment.key in plan.paused:
        return Assignment("paused")
    if experiment.shipped >= 0:
        return _assign_shipped(plan, experiment, subject, now)
    if spec.status == "stopped" or now >= experiment.end:
        return Assignment("ended")
    if now < experiment.start:
        return Assignment("not_started")
    if experiment.forced:
        for name in subject.names:
            if name is not None and name in experiment.forced:
                return Assignment("forced", experiment.forced[name], name)
    if experiment.rules or experiment.is_constant:
        return _assign_by_rules(plan, experiment, subject, now)
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


def _assign_shipped(plan: Plan, experiment: Experiment, subject: Subject, now: float) -> Assignment:
    """The shipped variant, for every subject in the experiment's audience outside the holdouts."""
    for name in subject.names:
        if name is not None and name in experiment.forced:
            return Assignment("forced", experiment.forced[name], name)
    if not all(_is_met(plan, need, subject, now) for need in experiment.prerequisites):
        return Assignment("prerequisite")
    if experiment.matches and not experiment.matches(subject.attributes):
        return Assignment("audience")
    if _is_held_out(experiment, subject):
        return Assignment("holdout")
    return Assignment("shipped", experiment.shipped, subject.units[experiment.spec.unit] or "")


def is_same_for_everyone(plan: Plan, experiment: Experiment, named: Collection[Unit], now: float) -> bool:
    """Whether the assignment at `now` (s since 1970) needs no customer id, so that unknown visitors can have it too.

    Whatever an earlier decision or another experiment may have settled for a customer needs one: sticky entries,
    prerequisites, and holdouts and filters by a unit that the request does not name. `named` are the units other than
    customers and devices that it names.
    """
    spec = experiment.spec
    holdouts = (*experiment.holdouts, *plan.frozen)
    needs_id = bool(experiment.prerequisites) or any(holdout.unit not in named for holdout in holdouts)
    if experiment.shipped >= 0:
        return experiment.key in plan.paused or not needs_id
    is_off = spec.status != "running" or not experiment.start <= now < experiment.end
    if experiment.key in plan.paused or (is_off and not plan.frozen):
        return True
    if spec.sticky or needs_id:
        return False
    if is_off:
        return True
    if experiment.rules or experiment.is_constant:
        return all(rule.is_plain and not rule.experiment.prerequisites for rule in experiment.rules)
    if spec.unit in named:
        return all(rule.unit is None or rule.unit in named for rule in experiment.filters)
    has_one_variant = plan.current_ranges(experiment, now) == ((0.0, 1.0),)
    return has_one_variant and not (experiment.layer or experiment.filters)


def _assign_by_hash(plan: Plan, experiment: Experiment, subject: Subject, unit: str, now: float) -> Assignment:
    """The assignment of a unit that is neither forced nor bound."""
    if experiment.layer and not experiment.low <= experiment.layer.hash_unit(unit) < experiment.high:
        return Assignment("layer")
    for rule in experiment.filters:
        filtered = unit if rule.unit is None else subject.units[rule.unit]
        if not filtered or choose_variant(rule.hash_unit(filtered), rule.ranges) < 0:
            return Assignment("layer")
    if not all(_is_met(plan, need, subject, now) for need in experiment.prerequisites):
        return Assignment("prerequisite")
    if experiment.matches and not experiment.matches(subject.attributes):
        return Assignment("audience")
    place = experiment.hash_unit(unit)
    for index, (low, high) in enumerate(plan.current_ranges(experiment, now)):
        if low <= place < high:
            if _is_held_out(experiment, subject):
                return Assignment("holdout")
            return _assign_period(experiment.switchback, unit, now) or Assignment("assigned", index, unit)
    return Assignment("coverage")


def _assign_period(design: Switchback | None, unit: str, now: float) -> Assignment | None:
    """The variant that a switchback gives the unit in the period of `now`; None for any other experiment."""
    if design is None:
        return None
    begin = datetime.fromtimestamp(design.begin(now), UTC).isoformat(timespec="seconds")
    return Assignment("assigned", design.choose(unit, now), f"{unit} {begin}")


def _is_held_out(experiment: Experiment, subject: Subject) -> bool:
    """Whether a holdout keeps the subject out.

    It is asked last: who is held out would have a variant, so a holdout's units and those let in can be compared.
    """
    return any(holdout.holds_out(subject.units[holdout.unit]) for holdout in experiment.holdouts)


def _assign_by_rules(plan: Plan, flag: Experiment, subject: Subject, now: float) -> Assignment:
    """The assignment by the flag's first rule that gives a variant; `default` if no rule does.

    A unit that a holdout keeps out of a rule's experiment gets what the flag gives without it, with the reason
    `holdout` and that rule, so that the report of the holdout finds it as it finds those who have a variant.
    """
    if flag.matches and not flag.matches(subject.attributes):
        return Assignment("audience")
    if not all(_is_met(plan, need, subject, now) for need in flag.prerequisites):
        return Assignment("prerequisite")
    kept_out: Experiment | None = None
    for rule in flag.rules:
        found = _assign_by_rule(plan, rule, subject, now)
        if found.index >= 0 and _is_held_out(flag, subject):
            return Assignment("holdout")
        if found.index >= 0 and kept_out is not None:
            return Assignment("holdout", rule.indices[found.index], found.unit, kept_out)
        if found.index >= 0:
            return Assignment(found.reason, rule.indices[found.index], found.unit, rule.experiment)
        if found.reason == "degraded":
            return found
        if found.reason == "holdout" and kept_out is None:
            kept_out = rule.experiment
    return Assignment("default") if kept_out is None else Assignment("holdout", flag.default, rule=kept_out)


def _assign_by_rule(plan: Plan, rule: Rule, subject: Subject, now: float) -> Assignment:
    """The assignment by one rule of a flag; its index counts the rule's own variants."""
    experiment = rule.experiment
    if not experiment.start <= now < experiment.end:
        return Assignment("not_started" if now < experiment.start else "ended")
    if experiment.matches and not experiment.matches(subject.attributes):
        return Assignment("audience")
    if experiment.key in plan.paused:
        return Assignment("paused")
    if experiment.shipped >= 0:
        return _assign_shipped(plan, experiment, subject, now)
    if experiment.spec.status == "stopped":
        return Assignment("ended")
    if rule.is_plain:
        met = all(_is_met(plan, need, subject, now) for need in experiment.prerequisites)
        return Assignment("rule", 0) if met else Assignment("prerequisite")
    spec = experiment.spec
    if subject.degraded and spec.kind == "experiment":
        return Assignment("degraded")
    unit = subject.units[spec.unit] or (subject.units[spec.fallback_unit] if spec.fallback_unit else None)
    return _assign_by_hash(plan, experiment, subject, unit, now) if unit else Assignment("unit")


def _is_met(plan: Plan, need: Requirement, subject: Subject, now: float) -> bool:
    """Whether the subject meets a prerequisite: the required variant of another experiment."""
    other = plan.experiments.get(need.experiment)
    if other is None:  # a draft
        return need.is_off
    found = assign(plan, other, subject, now)
    if need.is_off:
        by_experiment = found.rule is not None and found.reason not in {"rule", "holdout"}
        return found.index < 0 or (found.index == other.default and not by_experiment)
    if found.index < 0:
        return False
    if need.rules is not None:
        return found.rule is not None and found.reason != "holdout" and found.rule.key in need.rules
    return need.variants is not None and other.spec.variants[found.index].key in need.variants
