"""The archive of a profile: parts stored beside it, so that it stays small and no data behind a promise is dropped.

A decision reads the profile alone. Writers read the archived orders too; erasure and export read the identifiers.

- *Orders.* A profile has the `orders_limit` newest. Older ones within `return_period` of the customer's last event are
  archived, so a refund finds its order and a repeated purchase is found out, however many orders followed. The shop's
  own traits read the archived orders as `archived_series`, which every write computes again; an order that leaves the
  archive is added to their series for good.
- *Identifiers.* A profile has the newest browsers and devices, as many as `holds` allows. Every other one is archived
  for as long as the profile lives, so erasure and export reach all that was ever written under it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, WEAK, IdKind, Order, Profile, Scalar

_NO_FACTS: Final[Mapping[str, dict[str, Scalar]]] = MappingProxyType({})


class ArchivedParts(NamedTuple):
    """Orders by id, their facts, and identifiers by kind that are not in the profile."""

    orders: dict[str, Order]
    identifiers: list[tuple[IdKind, str]]
    facts: Mapping[str, dict[str, Scalar]] = _NO_FACTS


def split_profile(profile: Profile, rules: ProfileRules) -> tuple[Profile, ArchivedParts]:
    """Returns the profile within its limits, and the parts to archive."""
    former = [
        (kind, value)
        for kind in KINDS
        if kind in WEAK
        for value in profile.ids.get(kind, [])[: -rules.hold_limit(kind)]
    ]
    if former:
        ids = {
            kind: values[-rules.hold_limit(kind) :] if kind in WEAK else values
            for kind in KINDS
            if (values := profile.ids.get(kind))
        }
        profile = replace(profile, ids=dict(ids))
    if len(profile.orders) <= rules.orders_limit:
        return profile, ArchivedParts({}, former)
    by_age = sorted(profile.orders, key=lambda key: (abs(profile.orders[key].time), key))
    first = len(by_age) - rules.orders_limit
    oldest = profile.updated - rules.return_period
    earlier = {key: order for key in by_age[:first] if abs((order := profile.orders[key]).time) > oldest}
    facts, traits = profile.order_facts, rules.computed
    gone = {key: profile.orders[key] for key in by_age[:first] if key not in earlier}
    profile = replace(
        profile,
        orders={key: profile.orders[key] for key in by_age[first:]},
        order_facts={key: known for key in by_age[first:] if (known := facts.get(key))},
        series=traits.fold_orders(profile.series, gone, facts) if gone else profile.series,
        archived_series=traits.fold_orders({}, earlier, facts) if earlier else {},
    )
    return profile, ArchivedParts(earlier, former, {key: known for key in earlier if (known := facts.get(key))})


def join_profile(profile: Profile, orders: dict[str, Order], facts: Mapping[str, dict[str, Scalar]]) -> Profile:
    """Returns the profile with its archived orders and their facts."""
    if not orders:
        return profile
    return replace(
        profile, orders=orders | profile.orders, order_facts={**facts, **profile.order_facts}, archived_series={}
    )
