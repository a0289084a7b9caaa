"""How many customers of a sample go from which variant to which when one plan follows another."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.customer import Profile, derive_attributes
from engine.decision.assign import Subject, assign
from engine.decision.attributes import local_clock, overlay_context
from engine.decision.moments import customer_zone


class VariantMove(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """Customers who went from one variant to another; where there is no variant, its reason stands in brackets."""

    experiment: str
    source: str
    target: str
    customers: int


def count_moves(old: Plan, new: Plan, sample: Iterable[Profile], now: float) -> list[VariantMove]:
    """Every move of the sample at `now` (seconds since 1970), the largest of each experiment first."""
    keys = sorted({*old.experiments, *new.experiments})
    counts: dict[str, Counter[tuple[str, str]]] = {key: Counter() for key in keys}
    for profile in sample:
        subject = subject_of(profile, now, new.zone)
        for key in keys:
            before, after = _variant(old, key, subject, now), _variant(new, key, subject, now)
            if before != after:
                counts[key][before, after] += 1
    return [
        VariantMove(key, before, after, number) for key in keys for (before, after), number in counts[key].most_common()
    ]


def subject_of(profile: Profile, now: float, zone: str, context: Mapping[str, object] | None = None) -> Subject:
    """A customer as assignment sees them; their device and store are taken from `context`, `zone` is the shop's."""
    context = context or {}
    known = derive_attributes(profile, now)
    overlay_context(known, context)
    device, store = context.get("device_id"), context.get("store")
    return Subject(
        units={
            "customer": profile.unit,
            "device": device if isinstance(device, str) else None,
            "store": store if isinstance(store, str) else None,
        },
        names=frozenset((profile.id,)),
        attributes={**known, "id": profile.id, **local_clock(now, customer_zone(known, zone))},
        sticky=profile.sticky,
    )


def _variant(plan: Plan, key: str, subject: Subject, now: float) -> str:
    experiment = plan.experiments.get(key)
    if experiment is None:
        return "(none)"
    got = assign(plan, experiment, subject, now)
    return experiment.spec.variants[got.index].key if got.index >= 0 else f"({got.reason})"
