"""The YAML of limits per customer: caps on how often, and suppression after what came of it."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import Count, Key, Span, Spec, Text
from engine.vocabulary import EXPOSURE, IGNORED


class CapSpec(Spec, frozen=True, kw_only=True):
    """At most `count` of an event per customer and window.

    The `scope` counts the events of this offer, of all offers with a tag, of a channel, or all events of the customer.
    A calendar window is a day, a week from Monday, a month or a year in the customer's time zone, or in `zone`. If the
    customer changes zones, a window in which they were counted stays open until it ends in the zone of before.
    """

    count: Count
    per: Span
    window: Literal["rolling", "calendar"] = "rolling"
    zone: Text = "customer"
    event: Text = EXPOSURE
    scope: Literal["offer", "tag", "channel", "customer"] = "offer"
    tag: Key | None = None


class SuppressSpec(Spec, frozen=True, kw_only=True, rename={"lasts": "for"}):
    """After `after` outcomes `within` a span, the offer is not shown to this customer `for` a span.

    An offer is `ignored` when it was seen and not answered for a day, or when a channel reports so. Any other outcome
    is the name of an event.
    """

    after: Annotated[int, Meta(ge=1, le=64, extra={"remedy": "give a whole number from 1 to 64"})]
    outcome: Text = IGNORED
    within: Span
    lasts: Span
