"""Builds the attributes that conditions and features read, from the profile, the request and the clock.

Of a customer who has not consented to profiling: who they are, and not what they did.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from engine.catalog.conditions.dates import NOW
from engine.catalog.plan.plan import Plan
from engine.customer import COMPLAINT_FIELD, Profile, has_consented
from engine.decision.moments import customer_zone
from engine.traits.attributes import derive_attributes
from engine.traits.rules import TraitRules

QUARTER = 900
DEPTH = 10
"""Dots in a name of a request's context: a name with more is one plain name, as each step costs a mapping."""
STATED: Final = (
    *("id", "unit", "version", "created", "updated", "ids", "units", "merged", "marks", "shared", "undecided"),
    *("traits", "points", "earned", "tier", COMPLAINT_FIELD, "complaints", "consents", "sticky", "links"),
    *("consent_statements", "trait_statements", "joining", "half_life"),
)
"""The fields of a profile that are no history: identity, stated traits, consents, variants, points, open complaints."""


def usable_profile(plan: Plan, profile: Profile, now: float) -> Profile:
    """The profile as a decision at `now` (s since 1970) may read it.

    Where `identities.yaml` names a purpose under `profiling` and the customer has not consented to it, the profile has
    no orders, visits, affinities, answers, journeys or times of events, and nothing computed from them. Caps hold all
    the same: they protect the customer.
    """
    purpose = plan.rules.profiling
    if purpose is None or has_consented(profile, purpose, now):
        return profile
    return Profile(**{name: getattr(profile, name) for name in STATED})


def build_attributes(
    profile: Profile,
    channel: str,
    context: Mapping[str, object],
    now: float,
    default_zone: str,
    *,
    computed: TraitRules,
) -> tuple[dict[str, object], str]:
    """The attributes of a decision at `now` (s since 1970), and the customer's time zone."""
    attributes = derive_attributes(profile, now, computed)
    overlay_context(attributes, context)
    zone = customer_zone(attributes, default_zone)
    attributes["id"] = profile.id
    attributes["channel"] = channel
    attributes |= local_clock(now, zone)
    return attributes, zone


def overlay_context(attributes: dict[str, object], context: Mapping[str, object]) -> None:
    """Writes a request's context over the profile's attributes, in place: the request's values are newer.

    `loyalty.tier` names one trait, whether the context has it flat or nested.
    """
    _overlay(attributes, context, {})


Branches = dict[int, dict[str, object]]
"""Copies of branches by their identity; each is made once, however many names of the context lead through it."""


def _overlay(attributes: dict[str, object], context: Mapping[str, object], owned: Branches) -> None:
    for name, value in context.items():
        if "." not in name and type(value) is not dict:
            attributes[name] = value
            continue
        tree, leaf = attributes, name
        if 0 < name.count(".") < DEPTH:
            *path, leaf = name.split(".")
            for step in path:
                tree = _own_branch(tree, step, owned)
        if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
            _overlay(_own_branch(tree, leaf, owned), value, owned)
        else:
            tree[leaf] = value


def _own_branch(tree: dict[str, object], name: str, owned: Branches) -> dict[str, object]:
    """Replaces the branch of that name by a copy, since a request that owns it must not change; returns the copy."""
    branch = tree.get(name)
    if isinstance(branch, dict) and owned.get(id(branch)) is branch:
        return branch
    copy: dict[str, object] = dict(branch) if isinstance(branch, dict) else {}
    owned[id(copy)] = copy
    tree[name] = copy
    return copy


def local_clock(now: float, zone: str) -> dict[str, object]:
    """Hour (0 to 24, with its fraction) and weekday (Monday is 0) at the customer, and the time, for conditions."""
    local = now + _utc_offset(zone, int(now // QUARTER))
    day = local // 86_400
    return {"hour": (local - day * 86_400) / 3600, "weekday": int(day + 3) % 7, NOW: now}


@lru_cache(1024)
def _utc_offset(zone: str, quarter: int) -> float:
    """Seconds that a zone is ahead of UTC, cached per quarter of an hour, since offsets change at quarters."""
    offset = datetime.fromtimestamp(quarter * QUARTER, ZoneInfo(zone)).utcoffset()
    return offset.total_seconds() if offset else 0.0
