"""The stages of the customer's journey, and the start of each."""

from typing import Final, Literal, NamedTuple

from engine.customer import Profile
from engine.vocabulary import DAY

Stage = Literal["new", "engaged", "cart", "customer", "loyal", "lapsed"]


class StageRules(NamedTuple):
    """The starts of the stages of the journey; `lapsed_after` is in seconds since the last order."""

    engaged_visits: int = 2
    loyal_orders: int = 5
    lapsed_after: float = 180 * DAY


STAGE_RULES: Final = StageRules()


def derive_stage(profile: Profile, now: float, rules: StageRules = STAGE_RULES) -> Stage:
    """The journey stage: lapsed and loyal customers by their orders, then an open cart, then their visits."""
    if profile.order_count:
        if now - profile.last_order > rules.lapsed_after:
            return "lapsed"
        return "loyal" if profile.order_count >= rules.loyal_orders else "customer"
    cart = profile.journey.get("cart")
    if cart is not None and cart.value is not None and cart.until > now:
        return "cart"
    return "engaged" if profile.past_visits + len(profile.visits) >= rules.engaged_visits else "new"
