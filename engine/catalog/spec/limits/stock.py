"""The YAML of what customers share: stocks, for the whole shop or by place, and budgets; and `places.yaml`."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import Count, Key, Positive, Span, Spec, Text, ZonedTime

Latitude = Annotated[float, Meta(ge=-90, le=90, extra={"remedy": "give degrees, north of the equator above 0"})]
Longitude = Annotated[float, Meta(ge=-180, le=180, extra={"remedy": "give degrees, east of Greenwich above 0"})]
Kilometres = Annotated[float, Meta(ge=0, le=20_100, extra={"remedy": "give kilometres, such as 25"})]
HandOver = Literal["pick_up", "ship"]
BudgetPer = Literal["day", "week", "month"]


class StockSpec(Spec, frozen=True, kw_only=True):
    """The offer is shown only while `at_least` items of the SKU are left; each showing reserves one item for `hold`.

    The reservation ends early when the customer collects the item. With `pace` the stock is spread over the time until
    the offer's `end`. A shadow price rises with the rate of sale, and reserves the last items for the customers with
    the highest expected value.

    With `by` each place of `places.yaml` has a stock of its own, and the nearest one that has the item hands it over.
    With `by: pick_up` the customer collects it there, at most `within` kilometres away (25 unless given). With
    `by: ship` the place sends it. `places` names those that may; without it, all of their kind do.
    """

    sku: Text
    at_least: Count = 1
    hold: Span = "15m"
    pace: bool = False
    by: HandOver | None = None
    within: Kilometres | None = None
    places: Annotated[list[Key], Meta(min_length=1)] | None = None


class BudgetSpec(Spec, frozen=True, kw_only=True):
    """The total `amount` that the offer may cost. Each showing reserves its `cost` until it is redeemed or `hold` ends.

    `costs` are those of channels where it costs another amount, such as a letter's postage on top.

    With `per` each day, week from Monday or month has the amount, in the shop's time zone. What is left of one is not
    added to the next. A showing counts in the period in which it was decided.

    With `pace: true` the budget is spread over the time until the offer's `end`, as a stock is. With `pace: even` its
    spent and reserved share never exceeds the share of the period that is over. Without `per` the period is the time
    from the offer's `start` to its `end`.

    A refund within `refunds` after the redemption gives the amount back to the period that it was taken from. Without
    `refunds` it gives nothing back.

    With `of` the offer takes its cost from a budget of `campaigns.yaml`, which it shares with others. That has the
    amount then, with `per`, `pace` and `refunds`.
    """

    amount: Positive | None = None
    of: Key | None = None
    per: BudgetPer | None = None
    cost: Positive = 1.0
    costs: dict[Key, Positive] = {}
    hold: Span = "1d"
    pace: bool | Literal["even"] = False
    refunds: Span | None = None

    def cost_on(self, channel: str) -> float:
        """The amount that one showing on a channel reserves."""
        return self.costs.get(channel, self.cost)


class SharedBudgetSpec(Spec, frozen=True, kw_only=True):
    """The total `amount` that the offers which name this budget may cost together, such as those of one campaign.

    With `per` each day, week from Monday or month has the amount, in the shop's time zone. With `pace: even` its spent
    and reserved share never exceeds the share of the period that is over. Without `per` the period is the time from
    `start` to `end`. `refunds` is as of an offer's own budget.
    """

    key: Key
    title: Text | None = None
    amount: Positive
    per: BudgetPer | None = None
    pace: Literal["even"] | None = None
    refunds: Span | None = None
    start: ZonedTime | None = None
    end: ZonedTime | None = None


class CouponsSpec(Spec, frozen=True, kw_only=True):
    """Each showing gives its customer a code of their own, which `counterpoint coupons import` added.

    `{coupon}` in a text of the rendering is the code. While no code is left, the offer is shown only to customers who
    have one. Until `hold` ends after the showing, a purchase or redemption by the decision redeems the code; by the
    property `coupon` it does so at any time.
    """

    hold: Span = "30d"


class PlaceSpec(Spec, frozen=True, kw_only=True):
    """A shop or a warehouse, at degrees of latitude and longitude.

    Customers collect items there if it `collects`, and it sends them if it `ships`.
    """

    key: Key
    title: Text | None = None
    address: Text | None = None
    latitude: Latitude
    longitude: Longitude
    collects: bool = True
    ships: bool = True


class PlacesFile(Spec, frozen=True, kw_only=True):
    """`places.yaml`: the places that have a stock of their own.

    A request is near the place that `place` in its context names, or at its `latitude` and `longitude`. Traits of the
    customer by these names stand in where the context has none. Of equal distances, and without a position, the first
    place in the file precedes.
    """

    places: Annotated[list[PlaceSpec], Meta(min_length=1)]
