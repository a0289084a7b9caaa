"""The rent of a shop's rules: the cost of each gate, cap, floor, hold-out and quiet hour, from the log.

The plan without one rule is valued against the plan that runs (`line_values`). A floor and a hold-out are logged with
their propensities, so their cost is known. A rule that closes an offer leaves no decision in which the offer had a
chance: its cost cannot be judged, unless it closed nothing. Consent, stock, budgets, codes and the shop's `suppress`
are no rules to lift, and are not listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from engine.analysis.planvalue.line_values import LineValue, PlanJudge
from engine.analysis.planvalue.shown_rows import read_shown_log
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.catalog.plan.compile import compile_plan
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import OfferSpec, SelectionSpec

RentVerdict = Literal["costs", "pays", "open", "no effect", "cannot be judged"]
"""`pays`: the shop would earn less without it. `no effect`: it changed no decision of the log."""
_VERDICTS: dict[str, RentVerdict] = {"earns": "costs", "loses": "pays", "open": "open", "no effect": "no effect"}


class RuleRent(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one rule per 1,000 decisions and per 30 days; negative if the rule earns money.

    `where` is the entry, `rule` the path in it, and `value` what stands there. `changed` is the share of the decisions
    that it changes.
    """

    where: str
    rule: str
    value: object
    verdict: RentVerdict
    per_thousand: Effect | NotEstimable
    per_month: Effect | NotEstimable
    changed: float


class RentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The rents of all rules, in file order."""

    currency: str
    alpha: float
    decisions: int
    customers: int
    days: float
    rules: list[RuleRent]


class _Lifted(NamedTuple):
    """A rule, and the specs without the rule."""

    where: str
    rule: str
    value: object
    specs: Specs


def measure_rent(specs: Specs, log_dir: Path, *, alpha: float = 0.05) -> RentReport:
    """The rent of each rule of a shop.

    Args:
        specs: of the plan that runs.
        log_dir: the log.
        alpha: one minus the intervals' coverage.

    Raises:
        BadInput: if the log has no decisions on offers that were seen.
    """
    judge = PlanJudge(read_shown_log(log_dir), compile_plan(specs), alpha)
    rules = [_rent_of(lifted, judge.value(compile_plan(lifted.specs), [])) for lifted in _lift_each(specs)]
    return RentReport(
        currency=judge.plan.currency,
        alpha=alpha,
        decisions=len(judge.log.rows),
        customers=judge.customers,
        days=judge.log.days,
        rules=rules,
    )


def _rent_of(lifted: _Lifted, value: LineValue) -> RuleRent:
    return RuleRent(
        where=lifted.where,
        rule=lifted.rule,
        value=msgspec.to_builtins(lifted.value),
        verdict=_VERDICTS.get(value.verdict, "cannot be judged"),
        per_thousand=value.per_thousand,
        per_month=value.per_month,
        changed=value.changed,
    )


def _lift_each(specs: Specs) -> Iterator[_Lifted]:
    """Yield each rule with the specs from which it is removed."""
    for key, offer in specs.offers.items():
        for rule, value, without in _offer_rules(offer):
            yield _Lifted(f"offers/{key}", rule, value, replace(specs, offers={**specs.offers, key: without}))
    for key, selection in specs.selections.items():
        for rule, value, free in _selection_rules(selection):
            yield _Lifted(key, rule, value, replace(specs, selections={**specs.selections, key: free}))
    yield from _channel_rules(specs)


def _offer_rules(offer: OfferSpec) -> Iterator[tuple[str, object, OfferSpec]]:
    change = msgspec.structs.replace
    if offer.audience:
        yield "audience", offer.audience, change(offer, audience={})
    if offer.start is not None or offer.end is not None:
        yield "dates", [offer.start, offer.end], change(offer, start=None, end=None)
    for place, cap in enumerate(offer.caps):
        yield f"caps[{place}]", cap, change(offer, caps=[one for one in offer.caps if one is not cap])
    if offer.suppress is not None:
        yield "suppress", offer.suppress, change(offer, suppress=None)
    if offer.exclusive:
        yield "exclusive", offer.exclusive, change(offer, exclusive=[])


def _selection_rules(selection: SelectionSpec) -> Iterator[tuple[str, object, SelectionSpec]]:
    change = msgspec.structs.replace
    if selection.policy.floor:
        yield "policy.floor", selection.policy.floor, change(selection, policy=change(selection.policy, floor=0.0))
    if selection.silence:
        yield "silence", selection.silence, change(selection, silence=0.0)


def _channel_rules(specs: Specs) -> Iterator[_Lifted]:
    """Yield the caps and the quiet hours of each channel."""
    change = msgspec.structs.replace
    for place, channel in enumerate(specs.channels.channels):
        lifted: list[tuple[str, object, object]] = [
            (f"caps[{at}]", cap, change(channel, caps=[one for one in channel.caps if one is not cap]))
            for at, cap in enumerate(channel.caps)
        ]
        if channel.quiet is not None:
            lifted.append(("quiet", channel.quiet, change(channel, quiet=None)))
        for rule, value, free in lifted:
            channels = [*specs.channels.channels[:place], free, *specs.channels.channels[place + 1 :]]
            changed = replace(specs, channels=change(specs.channels, channels=channels))
            yield _Lifted(f"channels.{channel.key}", rule, value, changed)
