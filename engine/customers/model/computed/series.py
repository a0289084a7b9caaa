"""Reduces and merges the series of the shop's traits; `engine.traits.rules` has what each trait reads.

Both commute. A series whose definition this plan does not have stays: another server may run the plan that has it.
Past `SERIES` of them those without a definition go.
"""

from collections.abc import Mapping
from typing import Final

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile, TraitSeries
from engine.customers.model.events import Event
from engine.traits.rules import TraitRules
from engine.traits.series import EMPTY, extend_series, is_past_bound, merge_series, merge_unread

SERIES: Final = 128
"""Most series of one customer."""


def extend_traits(profile: Profile, event: Event, time: float, rules: ProfileRules) -> Mapping[str, object]:
    """Adds an event to the series that read it; orders with an id are read from the profile instead."""
    series: dict[str, TraitSeries] | None = None
    for rule in rules.computed.by_event.get(event.event or "", ()):
        point = rule.point_of_event(event.event or "", event.properties, time)
        if point is not None:
            series = dict(profile.series) if series is None else series
            series[rule.digest] = extend_series(rule.series, series.get(rule.digest, EMPTY), (point,))
    return {} if series is None else {"series": _bounded(series, rules.computed)}


def merge_computed(target: Profile, source: Profile, rules: ProfileRules) -> Mapping[str, object]:
    """Returns the series of a merged customer."""
    return {
        "series": _bounded(_merge(target.series, source.series, rules.computed), rules.computed),
        "archived_series": _merge(target.archived_series, source.archived_series, rules.computed),
    }


def newly_bounded(before: Profile, after: Profile, rules: TraitRules) -> list[str]:
    """Returns the traits whose series passed its bound with this change."""
    return [
        rule.name
        for digest, series in after.series.items()
        if series is not (earlier := before.series.get(digest, EMPTY))
        and (rule := rules.by_digest.get(digest)) is not None
        and is_past_bound(rule.series, series)
        and not is_past_bound(rule.series, earlier)
    ]


def _merge(
    ours: Mapping[str, TraitSeries], theirs: Mapping[str, TraitSeries], rules: TraitRules
) -> dict[str, TraitSeries]:
    merged = dict(ours)
    for digest, series in theirs.items():
        held = merged.get(digest)
        rule = rules.by_digest.get(digest)
        if held is None:
            merged[digest] = series
        else:
            merged[digest] = merge_series(rule.series, held, series) if rule else merge_unread(held, series)
    return merged


def _bounded(series: dict[str, TraitSeries], rules: TraitRules) -> dict[str, TraitSeries]:
    if len(series) <= SERIES:
        return series
    undefined = sorted(digest for digest in series if digest not in rules.by_digest)
    return {digest: one for digest, one in series.items() if digest not in undefined[: len(series) - SERIES]}
