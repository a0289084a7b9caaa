"""Derives the attributes that conditions and features read from a profile, and from the shop's traits."""

from engine.customer import Profile, TraitValue, has_open_complaint
from engine.traits.rules import TraitRules
from engine.traits.stages import STAGE_RULES, derive_stage
from engine.vocabulary import DAY


def derive_attributes(profile: Profile, now: float, computed: TraitRules | None = None) -> dict[str, object]:
    """The customer's attributes at `now` (s since 1970), for conditions and features.

    A trait is at top level under its name; a dotted name nests (`loyalty.tier` is `{"loyalty": {"tier": …}}`). A trait
    that the shop sent replaces one of the engine's of the same name. One that the shop defines (`computed`) replaces
    what was sent, unless no event wrote the profile, as in a sample or a record. What was never seen is absent.
    """
    count = profile.order_count
    visits = profile.past_visits + len(profile.visits)
    tree: dict[str, object] = {
        "loyalty": {"points": profile.points, "tier": profile.tier},
        "visits": visits,
        "frequency": count,
        "monetary": profile.revenue,
        "channels": list(profile.channels),
        "complaint_open": has_open_complaint(profile),
        "stage": derive_stage(profile, now, STAGE_RULES if computed is None else computed.stages),
    }
    orders: dict[str, object] = {"count": count, "revenue": profile.revenue}
    if profile.last_order and count:  # an order that was refunded in full is none
        orders["last_days"] = tree["recency_days"] = max(0.0, now - profile.last_order) / DAY
    tree["orders"] = orders
    if profile.affinities:
        rate = -1.0 / profile.half_life
        tree["affinity"] = {
            name: affinity.value * 2.0 ** ((now - affinity.time) * rate)
            for name, affinity in profile.affinities.items()
        }
    if profile.consents:
        tree["consent"] = {name: consent.is_in_force(now) for name, consent in profile.consents.items()}
    if profile.answers:
        tree["satisfaction"] = {name: answer.score for name, answer in profile.answers.items()}
    for name, trait in profile.traits.items():
        if "." in name:
            _nest(tree, name, trait.value)
        else:
            tree[name] = trait.value
    if computed is not None:
        values = computed.read(profile, now)
        if values:
            tree |= {name: value for name, value in values if profile.version or name not in profile.traits}
    return tree


def _nest(tree: dict[str, object], name: str, value: TraitValue) -> None:
    """Writes a value under its dotted name; a plain value on the path is replaced by a mapping."""
    part, dot, rest = name.partition(".")
    while dot:
        child = tree.get(part)
        if not isinstance(child, dict):
            child = tree[part] = {}
        tree = child
        part, dot, rest = rest.partition(".")
    tree[part] = value
