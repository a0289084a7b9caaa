"""Assigns the experiments of one decision: which apply, their answers, log rows and sticky entries."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Literal

import msgspec

from engine.catalog.plan.features import Context
from engine.catalog.plan.plan import Experiment, Holdout, Plan, Selection
from engine.catalog.spec.flags import RULE
from engine.customer import Profile
from engine.decision import sticky
from engine.decision.assign import Assignment, AssignmentReason, Subject, assign
from engine.vocabulary import CAMPAIGN_CHANNEL, KEPT_MARK, PERIOD


class ExperimentAnswer(msgspec.Struct, frozen=True, gc=False):
    """The variant and its payload, or none; `reason` is an `AssignmentReason`, or `unknown` for a missing key.

    `rule` is the name of the flag's rule that decided.
    """

    variant: str | None
    payload: Mapping[str, object] | None
    reason: AssignmentReason | Literal["unknown"]
    rule: str | msgspec.UnsetType = msgspec.UNSET


NO_CONTEXT: Context = {}


class HoldoutSide(msgspec.Struct, frozen=True, gc=False):
    """A customer's side of a frozen holdout, for the log; `context` has the hashed unit where it is a trait."""

    holdout: Holdout
    is_held_out: bool
    context: Context = NO_CONTEXT
    hashed: str = ""
    """The unit that was hashed."""

    @property
    def share(self) -> float:
        """The side's share of all units."""
        return self.holdout.share if self.is_held_out else 1.0 - self.holdout.share


UNKNOWN = ExperimentAnswer(None, None, "unknown")


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """The assignment of one experiment in one decision, for the log.

    `crossover` is True where the customer may have met another variant as a visitor, before they were known. `context`
    has the traits that reports of the experiment need.
    """

    experiment: Experiment
    assignment: Assignment
    crossover: bool = False
    context: Context = NO_CONTEXT

    @property
    def decided(self) -> Experiment:
        """The experiment that owns the variant: the archived plan's if that plan decided."""
        return self.assignment.kept or self.experiment

    @property
    def variant(self) -> str | None:
        """The key of the variant; None without a variant."""
        index = self.assignment.index
        return self.decided.spec.variants[index].key if index >= 0 else None

    @property
    def logged(self) -> Experiment:
        """The experiment under whose key the assignment is logged: the flag's rule if one decided."""
        return self.assignment.rule or self.decided

    @property
    def share(self) -> float:
        """The variant's share of all admitted units, which is its propensity; 1 if no hash chose it."""
        if self.assignment.reason != "assigned":
            return 1.0
        logged, index = self.logged, self.assignment.index
        if logged is not self.experiment:  # the index is the flag's, not the rule's
            index = [variant.key for variant in logged.spec.variants].index(self.variant or "")
        variant = logged.spec.variants[index]
        return logged.shares[index] if variant.weight is None else variant.weight

    @property
    def selection(self) -> Selection | None:
        """The variant's own selection of a placement's offers, if it has a policy or an offer list of its own."""
        index = self.assignment.index
        return self.decided.selections[index] if index >= 0 else None

    def answer(self) -> ExperimentAnswer:
        """The assignment as the storefront gets it."""
        assignment = self.assignment
        if assignment.index < 0:
            return ExperimentAnswer(None, None, assignment.reason)
        variant = self.decided.spec.variants[assignment.index]
        if assignment.rule is not None:
            name = assignment.rule.key.rpartition(RULE)[2]
            return ExperimentAnswer(variant.key, variant.payload, assignment.reason, name)
        return ExperimentAnswer(variant.key, variant.payload, assignment.reason)


class ExperimentAssigner(msgspec.Struct, frozen=True, gc=False):
    """Assigns experiments for one subject at one time."""

    plan: Plan
    subject: Subject
    profile: Profile
    now: float

    def assign(self, experiment: Experiment) -> Assigned:
        """The experiment's assignment; its reason is `channel` if it does not run on the request's channel."""
        kept = self.subject.kept
        channels = (kept.experiments.get(experiment.key, experiment) if kept else experiment).spec.channels
        if channels is not None and self.subject.attributes["channel"] not in channels:
            return Assigned(experiment, Assignment("channel"))
        assignment = assign(self.plan, experiment, self.subject, self.now)
        crossover = bool(self.profile.units) and self._crossed_over(experiment, assignment)
        return Assigned(experiment, assignment, crossover, self._read_context(experiment, assignment))

    def assign_applicable(self, channel: str) -> dict[str, Assigned]:
        """The channel's experiments that have a variant for the subject, or hold it out."""
        subject, plan = self.subject, self.plan
        found = list(plan.by_channel[channel].find_applicable(subject.attributes, subject.units))
        kept = subject.kept.by_channel.get(channel) if subject.kept is not None else None
        if kept is not None:  # what only the kept plan has, or has for others than today's
            asked = {one.key for one in found}
            also = kept.find_applicable(subject.attributes, subject.units)
            found += [plan.experiments.get(one.key, one) for one in also if one.key not in asked]
        return {
            one.experiment.key: one
            for one in map(self.assign, found)
            if one.assignment.index >= 0 or one.assignment.reason == "holdout"
        }

    def find(self, key: str) -> Experiment | None:
        """The experiment with this key, from today's plan or else from the archived plan of the subject's holdout."""
        kept = self.subject.kept
        return self.plan.experiments.get(key) or (kept.experiments.get(key) if kept is not None else None)

    def _read_context(self, experiment: Experiment, assignment: Assignment) -> Context:
        """The traits that reports on the experiment and its holdouts need, with the hashed units."""
        has_context = assignment.index >= 0 or assignment.reason == "holdout"
        traits = (assignment.rule or assignment.kept or experiment).logged_traits if has_context else None
        if traits is None:
            return NO_CONTEXT
        context = traits.read(self.subject.attributes)
        for unit, trait in self.plan.unit_traits.items():
            if trait in context:
                context[trait] = self.subject.units[unit]
        if experiment.switchback is not None:
            context[PERIOD] = experiment.switchback.begin(self.now)
        return context

    def _crossed_over(self, experiment: Experiment, assignment: Assignment) -> bool:
        """Whether a visitor who was merged into this customer had another variant before the merge."""
        profile, subject = self.profile, self.subject
        if assignment.reason not in ("assigned", "sticky") or experiment.spec.unit != "customer":
            return False
        for unit, until in profile.units.items():
            units = {**subject.units, "customer": unit}
            visitor = msgspec.structs.replace(subject, units=units, sticky={}, kept=self.plan.find_kept(units))
            earlier = assign(self.plan, experiment, visitor, min(self.now, until))
            if earlier.kept is not None or (earlier.index >= 0 and earlier.index != assignment.index):
                return True
        return False


def holdout_sides(plan: Plan, subject: Subject) -> tuple[HoldoutSide, ...]:
    """The side of each frozen holdout, up to the first that holds the subject out: its plan then decides."""
    sides: list[HoldoutSide] = []
    for holdout in plan.frozen:
        unit = subject.units.get(holdout.unit)
        if unit:
            trait = plan.trait_of(holdout.unit)
            is_held_out = holdout.holds_out(unit)
            sides.append(HoldoutSide(holdout, is_held_out, {trait: unit} if trait else NO_CONTEXT, unit))
            if is_held_out:
                break
    return tuple(sides)


def new_sticky_entries(assigned: Iterable[Assigned], subject: Subject) -> dict[str, str]:
    """The sticky entries that the customer lacks; usually none."""
    entries: dict[str, str] = {}
    for one in assigned:
        spec = one.experiment.spec
        if spec.sticky and one.variant is not None and one.assignment.reason in ("assigned", "sticky"):
            entries |= sticky.new_sticky_entry(spec, subject.units, subject.sticky, one.variant)
    return entries


def selection_at(plan: Plan, channel: str, placement: str, assigned: Mapping[str, Assigned]) -> Selection:
    """The placement's selection, or the one of the variant that an experiment on the placement assigned."""
    if channel == CAMPAIGN_CHANNEL:
        return plan.campaigns[placement].selection
    selection = plan.selections[channel, placement]
    for experiment in plan.by_placement.get((channel, placement), ()):
        if experiment.key in assigned:
            selection = assigned[experiment.key].selection or selection
    return selection


def kept_selection_at(
    plans: tuple[Plan, Plan], channel: str, placement: str, assigned: Mapping[str, Assigned]
) -> Selection | None:
    """The archived plan's selection at a placement of today's plan, if it has one; `plans` is (today's, archived).

    A campaign of that plan chooses while today's has the same arms: messages have the days and hours of today's.
    Nothing closes a fallback, so one that is limited by now, in stock or in time, gives way to today's.
    """
    today, kept = plans
    if channel == CAMPAIGN_CHANNEL:
        campaign, arms = kept.campaigns.get(placement), today.campaigns[placement].selection.arms
        return campaign.selection if campaign is not None and campaign.selection.arms == arms else None
    if (channel, placement) not in kept.selections:
        return None
    selection = selection_at(kept, channel, placement, assigned)
    if selection.fallback.spec.is_unrestricted:
        return selection
    return replace(selection, fallback=today.selections[channel, placement].fallback)


def is_tripped(selection: Selection, tripped: Collection[str]) -> bool:
    """Whether a selection's breaker is open; for a kept plan's, also that of today's selection of the same name."""
    return bool(tripped) and (selection.key in tripped or selection.key.partition(KEPT_MARK)[0] in tripped)
