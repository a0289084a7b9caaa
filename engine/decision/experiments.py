"""The experiments of one decision: which are asked for, what each answers, what is logged and bound."""

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
    """The variant and its payload, or none; `reason` as in `AssignmentReason`, or `unknown` for no such experiment.

    `rule` is the name of the flag's rule that decided.
    """

    variant: str | None
    payload: Mapping[str, object] | None
    reason: AssignmentReason | Literal["unknown"]
    rule: str | msgspec.UnsetType = msgspec.UNSET


NO_CONTEXT: Context = {}


class HoldoutSide(msgspec.Struct, frozen=True, gc=False):
    """The side of a frozen holdout on which a customer is, for the log; `context` has the unit that was hashed."""

    holdout: Holdout
    is_held_out: bool
    context: Context = NO_CONTEXT

    @property
    def share(self) -> float:
        """The side's share of all units."""
        return self.holdout.share if self.is_held_out else 1.0 - self.holdout.share


UNKNOWN = ExperimentAnswer(None, None, "unknown")


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """One experiment's part of a decision, for the log.

    `crossover` is True where the customer may have met another variant as a visitor, before they were known. `context`
    has the traits that reports of the experiment need.
    """

    experiment: Experiment
    assignment: Assignment
    crossover: bool = False
    context: Context = NO_CONTEXT

    @property
    def decided(self) -> Experiment:
        """The experiment whose variants the assignment means: that of the archived plan, where that decided."""
        return self.assignment.kept or self.experiment

    @property
    def variant(self) -> str | None:
        """The key of the variant, None where there is none."""
        index = self.assignment.index
        return self.decided.spec.variants[index].key if index >= 0 else None

    @property
    def logged(self) -> Experiment:
        """The experiment under whose key the log has the assignment: that of the flag's rule, where one decided."""
        return self.assignment.rule or self.decided

    @property
    def share(self) -> float:
        """The variant's share of all units let in, which is its propensity; 1 where the hash did not choose."""
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
        """The answer to the storefront."""
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
        """The experiment's assignment, `channel` where it does not run on the request's channel."""
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
        """The experiment of this key, of today's plan or else of the one that is kept for the subject."""
        kept = self.subject.kept
        return self.plan.experiments.get(key) or (kept.experiments.get(key) if kept is not None else None)

    def _read_context(self, experiment: Experiment, assignment: Assignment) -> Context:
        """The traits that reports of the experiment and of its holdouts need, with units as they were hashed."""
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
        """Whether one of the visitors that turned out to be this customer had another variant until then."""
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
    """The side of each frozen holdout, up to the one whose plan decides: who is behind it is in none of the others."""
    sides: list[HoldoutSide] = []
    for holdout in plan.frozen:
        unit = subject.units.get(holdout.unit)
        if unit:
            trait = plan.trait_of(holdout.unit)
            is_held_out = holdout.holds_out(unit)
            sides.append(HoldoutSide(holdout, is_held_out, {trait: unit} if trait else NO_CONTEXT))
            if is_held_out:
                break
    return tuple(sides)


def new_sticky_entries(assigned: Iterable[Assigned], subject: Subject) -> dict[str, str]:
    """The sticky entries that the customer does not have yet; usually none."""
    entries: dict[str, str] = {}
    for one in assigned:
        spec = one.experiment.spec
        if spec.sticky and one.variant is not None and one.assignment.reason in ("assigned", "sticky"):
            entries |= sticky.new_sticky_entry(spec, subject.units, subject.sticky, one.variant)
    return entries


def selection_at(plan: Plan, channel: str, placement: str, assigned: Mapping[str, Assigned]) -> Selection:
    """The placement's selection, or that of the variant which is `assigned` in an experiment on it."""
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
    """The selection at a placement of today's plan by the archived one (`plans`: today's, archived), if that has one.

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
    """Whether the breaker of a selection is open, or that of today's selection whose name a kept plan's has."""
    return bool(tripped) and (selection.key in tripped or selection.key.partition(KEPT_MARK)[0] in tripped)
