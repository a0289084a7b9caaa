"""Compiles `traits.yaml`, and triggers with a filter, to the rules by which profiles compute them."""

from collections.abc import Iterator

import msgspec

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import TriggerSpec
from engine.catalog.spec.segments import expand_segments
from engine.catalog.spec.traits import TraitSpec
from engine.traits.rules import TraitRule, TraitRules, index_traits
from engine.traits.series import Aggregate, SeriesRule, series_digest
from engine.traits.stages import StageRules
from engine.vocabulary import DAY, names_of_same_event

DEFAULT_PER = "1d"


def compile_traits(specs: Specs) -> TraitRules:
    """The shop's traits, and an unnamed trait for each trigger that reads its event's properties."""
    named = [_compile_trait(specs, name, spec) for name, spec in specs.traits.traits.items()]
    found = {rule.digest: rule for rule in _compile_triggers(specs)}
    stages = specs.grouping.stages
    rules = StageRules(
        engaged_visits=stages.engaged_visits,
        loyal_orders=stages.loyal_orders,
        lapsed_after=seconds(stages.lapsed_after),
    )
    return index_traits([*named, *found.values()], rules)


def compile_trigger(specs: Specs, trigger: TriggerSpec) -> TraitRule | None:
    """The rule that finds the last event of a filtered trigger; None for any other trigger."""
    if trigger.event is None or not trigger.filter:
        return None
    condition = expand_segments(trigger.filter, specs.segments)
    return TraitRule(
        name="",
        digest=series_digest({"trigger": trigger.event, "filter": _text_of(condition)}),
        series=SeriesRule(aggregate="time_since"),
        events=begins(trigger),
        matches=compile_condition(condition),
    )


def begins(trigger: TriggerSpec) -> frozenset[str]:
    """All names of the event that begins a moment; empty if a date or a condition begins it."""
    return frozenset() if trigger.event is None else names_of_same_event(trigger.event)


def cancels(trigger: TriggerSpec) -> frozenset[str]:
    """All names of the events that prevent a moment."""
    return frozenset(name for event in trigger.unless for name in names_of_same_event(event))


def _compile_triggers(specs: Specs) -> Iterator[TraitRule]:
    for moment in specs.moments.values():
        rule = compile_trigger(specs, moment.trigger)
        if rule is not None:
            yield rule


def _compile_trait(specs: Specs, name: str, spec: TraitSpec) -> TraitRule:
    """One trait. Its digest covers what decides its series: the window but not `per`, nor its name or title."""
    (aggregate, event), *_ = spec.aggregates()
    condition = expand_segments(spec.filter, specs.segments)
    window = seconds(spec.window) if spec.window else 0.0
    stored: Aggregate = "count" if aggregate == "rate" else aggregate
    digest = series_digest(
        {"aggregate": stored, "event": event, "of": spec.of, "filter": _text_of(condition), "window": window}
    )
    return TraitRule(
        name=name,
        digest=digest,
        series=SeriesRule(aggregate=aggregate, window=window, per=seconds(spec.per or DEFAULT_PER) if window else DAY),
        events=names_of_same_event(event),
        of=spec.of or "",
        matches=compile_condition(condition) if condition else None,
        filter_digest=series_digest({"filter": _text_of(condition)}) if condition else "",
    )


def _text_of(condition: dict[str, object]) -> str:
    return msgspec.json.encode(condition, order="sorted").decode() if condition else ""
