"""Counts the customers of a sample whose variant changes when one plan replaces another."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.catalog.spec.units import Unit
from engine.customer import Profile
from engine.decision.assign import Subject, assign
from engine.decision.attributes import local_clock, overlay_context
from engine.decision.moments import customer_zone
from engine.decision.units import read_units
from engine.rehearse.generated_customers import STORES
from engine.traits.attributes import derive_attributes


class VariantMove(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """The number of customers who move from one variant to another; a reason in brackets stands for no variant."""

    experiment: str
    source: str
    target: str
    customers: int


def count_moves(old: Plan, new: Plan, sample: Iterable[Profile], now: float) -> list[VariantMove]:
    """All moves of the sample at `now` (s since 1970), the most frequent of each experiment first.

    Each customer has a device and one of 50 stores, as in a dry run.
    """
    keys = sorted({*old.experiments, *new.experiments})
    counts: dict[str, Counter[tuple[str, str]]] = {key: Counter() for key in keys}
    for number, profile in enumerate(sample):
        known = subject_of(profile, now, new)
        more: dict[Unit, str | None] = {"device": f"device of {profile.id}", "store": f"store-{number % STORES}"}
        one, two = (_with_units(known, plan, more) for plan in (old, new))
        for key in keys:
            before, after = _variant(old, key, one, now), _variant(new, key, two, now)
            if before != after:
                counts[key][before, after] += 1
    return [
        VariantMove(key, before, after, number) for key in keys for (before, after), number in counts[key].most_common()
    ]


def _with_units(subject: Subject, plan: Plan, more: Mapping[Unit, str | None]) -> Subject:
    """The subject with a device, a store and the units of the plan's `units.yaml`."""
    named = read_units(plan.unit_traits, subject.attributes, plan.rules.placeholders)
    units = {**subject.units, **more, **named}
    return msgspec.structs.replace(subject, units=units, kept=plan.find_kept(units))


def subject_of(profile: Profile, now: float, plan: Plan, context: Mapping[str, object] | None = None) -> Subject:
    """The subject of assignment for a customer; device and store come from `context`."""
    context = context or {}
    known = derive_attributes(profile, now, plan.rules.computed)
    overlay_context(known, context)
    device, store = context.get("device_id"), context.get("store")
    units: dict[Unit, str | None] = {
        "customer": profile.unit,
        "device": device if isinstance(device, str) else None,
        "store": store if isinstance(store, str) else None,
    }
    return Subject(
        units=units,
        names=frozenset((profile.id,)),
        attributes={**known, "id": profile.id, **local_clock(now, customer_zone(known, plan.zone))},
        sticky=profile.sticky,
        kept=plan.find_kept(units),
    )


def _variant(plan: Plan, key: str, subject: Subject, now: float) -> str:
    experiment = plan.experiments.get(key)
    if experiment is None:
        return "(none)"
    got = assign(plan, experiment, subject, now)
    return (got.kept or experiment).spec.variants[got.index].key if got.index >= 0 else f"({got.reason})"
